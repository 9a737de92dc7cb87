package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// Unknown stands for what the API server did not tell.
const Unknown = "unknown"

// NodeStatus is a node with what Kubernetes knows about it.
type NodeStatus struct {
	Node
	// Status is Ready, NotReady, Missing when Kubernetes has no such node, or Unknown; empty for the load balancer, which is no node.
	Status string
	// Version is the kubelet's, for instance v1.34.10, or Unknown; empty for the load balancer.
	Version string
}

// askLimit bounds how long an API server is asked that perhaps does not answer.
const askLimit = 5 * time.Second

// Nodes tells about the nodes of a cluster, sorted by name, and about its load balancer, also when its API server does not answer. The error is a *recipes.InputError
// when there is no such cluster.
func Nodes(ctx context.Context, engine *dockerengine.Engine, name string) ([]NodeStatus, error) {
	c, err := get(ctx, engine, name)
	if err != nil {
		return nil, err
	}
	var known map[string]kubeNode
	if node, ok := c.runningControlPlane(); ok {
		limited, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		// That there is no answer is one of the answers.
		known, _ = (&member{engine: engine, id: node.ID, name: node.Name}).nodes(limited)
	}
	var statuses []NodeStatus
	for _, node := range c.Nodes {
		status := NodeStatus{Node: node, Status: Unknown, Version: Unknown}
		if k, ok := known[node.Name]; ok {
			status.Version, status.Status = k.version, "NotReady"
			if k.ready {
				status.Status = "Ready"
			}
		} else if known != nil {
			status.Status = "Missing"
		}
		statuses = append(statuses, status)
	}
	if c.LoadBalancer != nil {
		statuses = append(statuses, NodeStatus{Node: *c.LoadBalancer})
	}
	return statuses, ctx.Err()
}

// kubeNode is what Kubernetes knows about a node.
type kubeNode struct {
	ready bool
	// heartbeat is when the kubelet last said whether it is Ready, in whole seconds.
	heartbeat time.Time
	version   string
	// reserved are the taints that keep ordinary pods off a control plane, as kubectl taint takes them.
	reserved []string
	// cordoned says that no new pods come to it, and draining that this is nodeimg's doing.
	cordoned, draining bool
}

// controlPlaneTaint keeps ordinary pods off a control plane
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#node-role-kubernetes-io-control-plane-taint).
const controlPlaneTaint = "node-role.kubernetes.io/control-plane"

// nodes asks the API server of the control plane n for the nodes, by their names.
func (n *member) nodes(ctx context.Context) (map[string]kubeNode, error) {
	text, err := n.exec(ctx, "kubectl", "--kubeconfig", adminConfig, "--request-timeout", askLimit.String(), "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	return parseNodes(text)
}

// awaitNodes is nodes for an API server that perhaps does not answer yet: of a cluster that has just been started, or while the other control
// planes take over from one that is lost.
func (n *member) awaitNodes(ctx context.Context) (known map[string]kubeNode, err error) {
	step := progress.Start(ctx, "[%s] API server", n.name)
	err = until(ctx, n.wait, func(ctx context.Context) (err error) {
		known, err = n.nodes(ctx)
		return err
	})
	return known, step.Done(err)
}

// parseNodes reads a list of nodes as kubectl get nodes -o json prints it.
func parseNodes(text string) (map[string]kubeNode, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec struct {
				Taints        []struct{ Key, Value, Effect string }
				Unschedulable bool
			}
			Status struct {
				NodeInfo   struct{ KubeletVersion string }
				Conditions []struct {
					Type, Status      string
					LastHeartbeatTime time.Time
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("reading the list of nodes: %w", err)
	}
	found := map[string]kubeNode{}
	for _, item := range list.Items {
		n := kubeNode{version: item.Status.NodeInfo.KubeletVersion, cordoned: item.Spec.Unschedulable}
		_, n.draining = item.Metadata.Annotations[annotationDraining]
		for _, taint := range item.Spec.Taints {
			if taint.Key == controlPlaneTaint {
				n.reserved = append(n.reserved, taint.Key+"="+taint.Value+":"+taint.Effect)
			}
		}
		for _, c := range item.Status.Conditions {
			if c.Type == "Ready" {
				n.ready, n.heartbeat = c.Status == "True", c.LastHeartbeatTime
			}
		}
		found[item.Metadata.Name] = n
	}
	return found, nil
}
