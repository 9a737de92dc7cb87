package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// Labels of what is made, beside LabelCluster.
const (
	// LabelOwner has, on a claim, who makes the cluster.
	LabelOwner = "nodeimg.dev/owner"
	// labelRun has a word that no other run of Up or Resize has: what fails removes what itself has made, and nothing else.
	labelRun = "nodeimg.dev/run"
)

// newRun makes the word of a run.
func newRun() string { return rand.Text() }

// claimName and markName are the names of a cluster's two volumes that hold nothing: the first is there before anything else of the
// cluster and goes last, the second says that the cluster is complete. Without either, what was started counts as complete.
func claimName(cluster string) string { return networkName(cluster) + "-claim" }
func markName(cluster string) string  { return networkName(cluster) + "-complete" }

// claim makes the cluster the run's. An Engine has one volume of a name and tells who comes second about the first one's labels, so of any
// two, on whatever hosts, one gets the cluster. The error of the other one is a *recipes.InputError.
func claim(ctx context.Context, engine *dockerengine.Engine, cluster, owner, run string) error {
	err := engine.CreateVolume(context.WithoutCancel(ctx), claimName(cluster), map[string]string{LabelCluster: cluster, LabelOwner: owner, labelRun: run})
	if taken := new(dockerengine.TakenError); !errors.As(err, &taken) {
		return err
	}
	found, listErr := List(ctx, engine, cluster)
	if listErr != nil {
		return listErr
	}
	if len(found) == 0 {
		return because(err, "it is not this cluster's; remove it or choose another --name")
	}
	return found[0].refused()
}

// refused says why nobody but its owner may make the cluster anew.
func (c *Cluster) refused() error {
	if c.Complete {
		return recipes.InputErrorf("the cluster %s is there already; nodeimg down --name %[1]s removes it, nodeimg kubeconfig --name %[1]s gives access", c.Name)
	}
	// Behind the slash is a word that only tells apart.
	owner, _, _ := strings.Cut(c.Owner, "/")
	return recipes.InputErrorf("the cluster %s is half-made, and another nodeimg, of %s, may be at it still; wait for it, choose another --name, or remove "+
		"it with nodeimg down --name %[1]s", c.Name, owner)
}
