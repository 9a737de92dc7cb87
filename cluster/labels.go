package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// Labels of everything that belongs to a cluster.
const (
	// LabelCluster has the cluster's name.
	LabelCluster = "nodeimg.dev/cluster"
	// LabelRole has a node's role.
	LabelRole = "nodeimg.dev/role"
)

// Role is what a node is in its cluster.
type Role = config.Role

// The roles.
const (
	RoleControlPlane = config.RoleControlPlane
	RoleWorker       = config.RoleWorker
)

// Node is one node of a cluster.
type Node struct {
	dockerengine.Container
}

// Role is the node's role.
func (n Node) Role() Role { return Role(n.Labels[LabelRole]) }

// Cluster is a cluster that exists in an Engine, perhaps half-made.
type Cluster struct {
	Name string
	// Nodes are sorted by name.
	Nodes []Node
	// LoadBalancer is what stands before the API servers of several control planes; else nil.
	LoadBalancer *Node
	// Complete says that everything was Ready when the cluster was made, or that nobody can know any more: then it is nobody's to be made anew.
	Complete bool
	// Owner is who makes the cluster or has made it; empty when all that is left has lost it.
	Owner string
}

// Containers are the nodes and the load balancer.
func (c *Cluster) Containers() []Node {
	if c.LoadBalancer == nil {
		return c.Nodes
	}
	return append(slices.Clone(c.Nodes), *c.LoadBalancer)
}

// controlPlanes are the nodes with an API server.
func (c *Cluster) controlPlanes() []Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n Node) bool { return n.Role() != RoleControlPlane })
}

// runningControlPlane is the first one that runs. Whichever it is, its questions for the API server go to one that answers.
func (c *Cluster) runningControlPlane() (Node, bool) {
	for _, n := range c.controlPlanes() {
		if n.State == stateRunning {
			return n, true
		}
	}
	return Node{}, false
}

// CheckName says what is wrong with a cluster's name; the error is a *recipes.InputError.
func CheckName(name string) error { return config.CheckName(name) }

// nodeName is the name of a container, of the host in it and of the Kubernetes node. Numbers count from 1.
func nodeName(cluster string, role Role, number int) string {
	return fmt.Sprintf("%s-%s-%d", cluster, role, number)
}

// networkName is the name of the cluster's own network.
func networkName(cluster string) string { return "nodeimg-" + cluster }

// List returns the clusters in the Engine, sorted by name; with a name only that one, if it exists. Names match exactly.
func List(ctx context.Context, engine *dockerengine.Engine, name string) ([]*Cluster, error) {
	containers, err := engine.Containers(ctx, LabelCluster, name)
	if err != nil {
		return nil, err
	}
	networks, err := engine.Networks(ctx, LabelCluster, name)
	if err != nil {
		return nil, err
	}
	// Last: the claim is made first, so whoever sees anything of a cluster that another one makes now sees its claim too.
	volumes, err := engine.Volumes(ctx, LabelCluster, name)
	if err != nil {
		return nil, err
	}
	return sortOut(containers, networks, volumes), nil
}

// sortOut says whose everything is that belongs to clusters.
func sortOut(containers []dockerengine.Container, networks, volumes []dockerengine.Labelled) []*Cluster {
	found := map[string]*Cluster{}
	named := func(name string) *Cluster {
		if found[name] == nil {
			found[name] = &Cluster{Name: name}
		}
		return found[name]
	}
	for _, c := range containers {
		cluster, node := named(c.Labels[LabelCluster]), Node{c}
		if node.Role() == RoleLoadBalancer {
			cluster.LoadBalancer = &node
		} else {
			cluster.Nodes = append(cluster.Nodes, node)
		}
	}
	for _, n := range networks {
		named(n.Labels[LabelCluster])
	}
	claimed := map[*Cluster]bool{}
	for _, v := range volumes {
		cluster := named(v.Labels[LabelCluster])
		switch v.ID {
		case markName(cluster.Name):
			cluster.Complete = true
		case claimName(cluster.Name):
			cluster.Owner, claimed[cluster] = v.Labels[LabelOwner], true
		}
	}
	var clusters []*Cluster
	for _, c := range found {
		// The claim is there as long as anything is that nodeimg has started. docker volume prune takes it and the mark from below a cluster
		// that runs: no container mounts them. What the Engine made late for a nodeimg that was killed has never been started.
		if !claimed[c] && slices.ContainsFunc(c.Containers(), func(n Node) bool { return n.State != stateCreated }) {
			c.Complete = true
		}
		clusters = append(clusters, c)
	}
	slices.SortFunc(clusters, func(a, b *Cluster) int { return strings.Compare(a.Name, b.Name) })
	return clusters
}

// get returns the cluster of the name. The error is a *recipes.InputError when there is none.
func get(ctx context.Context, engine *dockerengine.Engine, name string) (*Cluster, error) {
	found, err := List(ctx, engine, name)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, recipes.InputErrorf("there is no cluster %s; nodeimg list shows those that are there", name)
	}
	return found[0], nil
}

// getComplete is get for what only a complete cluster can do.
func getComplete(ctx context.Context, engine *dockerengine.Engine, name string) (*Cluster, error) {
	c, err := get(ctx, engine, name)
	if err == nil && !c.Complete {
		return nil, recipes.InputErrorf("the cluster %s is half-made; nodeimg down --name %[1]s removes it, nodeimg up makes it anew", name)
	}
	return c, err
}

// running returns the cluster of the name, which must be complete, and the first control plane that runs; the load balancer must run too. The
// error is a *recipes.InputError when they do not.
func running(ctx context.Context, engine *dockerengine.Engine, name string, wait time.Duration) (*Cluster, *member, error) {
	c, err := getComplete(ctx, engine, name)
	if err != nil {
		return nil, nil, err
	}
	all := c.controlPlanes()
	if len(all) == 0 {
		return nil, nil, recipes.InputErrorf("the cluster %s has lost its control plane; nodeimg down --name %[1]s removes what is left of it", name)
	}
	node, ok := c.runningControlPlane()
	stopped := all[0]
	if c.LoadBalancer != nil && c.LoadBalancer.State != stateRunning {
		ok, stopped = false, *c.LoadBalancer
	}
	if !ok {
		return nil, nil, recipes.InputErrorf("the container %s is %s; nodeimg start --name %s starts it", stopped.Name, stopped.State, name)
	}
	return c, &member{engine: engine, id: node.ID, name: node.Name, wait: wait}, nil
}

// States of containers (https://docs.docker.com/reference/api/engine/, ContainerList).
const (
	// stateCreated is that of one that was never started.
	stateCreated = "created"
	stateRunning = "running"
)
