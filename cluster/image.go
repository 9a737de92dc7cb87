package cluster

import (
	"context"
	"errors"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// kubernetesOf returns the Kubernetes version of a node image in the Engine, for instance v1.34.10. The error is a *recipes.InputError when
// there is no such image, and when it is none that nodeimg has built.
func kubernetesOf(ctx context.Context, engine *dockerengine.Engine, image string) (string, error) {
	found, err := engine.Inspect(ctx, image)
	if missing := new(dockerengine.NotFoundError); errors.As(err, &missing) {
		return "", recipes.InputErrorf("%v", missing)
	}
	if err != nil {
		return "", err
	}
	version := found.Labels[recipes.LabelKubernetes]
	if version == "" {
		return "", recipes.InputErrorf("%s is not a node image that nodeimg built: it lacks the label %s", image, recipes.LabelKubernetes)
	}
	return version, nil
}

// checkImages refuses images that are no node images, and those whose nodes cannot join the first control plane.
func checkImages(ctx context.Context, engine *dockerengine.Engine, members []config.Member) error {
	versions := map[string]string{}
	for _, n := range members {
		if versions[n.Image] != "" {
			continue
		}
		version, err := kubernetesOf(ctx, engine, n.Image)
		if err != nil {
			return err
		}
		versions[n.Image] = version
		if err := checkSkew(n.Image, versions[members[0].Image], version); err != nil {
			return err
		}
	}
	return nil
}
