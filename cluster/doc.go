// Package cluster launches Kubernetes clusters from node images: every node is a container of a Docker Engine. Up makes a cluster, Down
// removes it, List tells about it. What belongs to a cluster is known by the labels of its containers, networks and volumes; there is no
// other state.
package cluster
