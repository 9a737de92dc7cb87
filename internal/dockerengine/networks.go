package dockerengine

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
)

// NetworkSpec is a bridge network to create.
type NetworkSpec struct {
	Name   string
	Labels map[string]string
	// Options are those of the bridge driver.
	Options map[string]string
	// IPv6 is the subnet of addresses beside the IPv4 ones that the Engine chooses; the zero value means none.
	IPv6 netip.Prefix
}

// CreateNetwork makes a bridge network. The error is a *TakenError when the name is taken.
func (e *Engine) CreateNetwork(ctx context.Context, spec NetworkSpec) error {
	name := spec.Name
	// The Engine itself takes one name twice: older ones always, newer ones when two clients are quick.
	found, err := e.client.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", name))})
	if err != nil {
		return fmt.Errorf("listing networks: %w", plain(ctx, err))
	}
	for _, n := range found {
		if n.Name == name {
			return &TakenError{What: "network name", Name: name}
		}
	}
	options := network.CreateOptions{Driver: "bridge", Labels: spec.Labels, Options: spec.Options}
	if spec.IPv6.IsValid() {
		enabled := true
		options.EnableIPv6 = &enabled
		options.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: spec.IPv6.String()}}}
	}
	_, err = e.client.NetworkCreate(ctx, name, options)
	if errdefs.IsConflict(err) {
		return &TakenError{What: "network name", Name: name}
	}
	if err != nil {
		return fmt.Errorf("creating network %s: %w", name, plain(ctx, err))
	}
	return nil
}

// Network is what the Engine knows about a network.
type Network struct {
	// IPv6 says that containers get IPv6 addresses too.
	IPv6 bool
	// Subnets are those that containers get addresses of.
	Subnets []string
}

// FindNetwork looks for a network of exactly the name.
func (e *Engine) FindNetwork(ctx context.Context, name string) (found Network, ok bool, err error) {
	all, err := e.client.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", name))})
	if err != nil {
		return Network{}, false, fmt.Errorf("listing networks: %w", plain(ctx, err))
	}
	for _, n := range all {
		if n.Name != name {
			continue
		}
		found.IPv6 = n.EnableIPv6
		for _, c := range n.IPAM.Config {
			found.Subnets = append(found.Subnets, c.Subnet)
		}
		return found, true, nil
	}
	return Network{}, false, nil
}

// Labelled is a network or a volume with its labels.
type Labelled struct {
	// ID is what it is removed by.
	ID     string
	Labels map[string]string
}

// Networks lists the networks that have the label, with the value unless that is empty.
func (e *Engine) Networks(ctx context.Context, label, value string) ([]Labelled, error) {
	found, err := e.client.NetworkList(ctx, network.ListOptions{Filters: labelFilter(label, value)})
	if err != nil {
		return nil, fmt.Errorf("listing networks: %w", plain(ctx, err))
	}
	var list []Labelled
	for _, n := range found {
		list = append(list, Labelled{ID: n.ID, Labels: n.Labels})
	}
	return list, nil
}

// RemoveNetwork removes a network without containers. One that is not there is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	if err := e.client.NetworkRemove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing network %s: %w", id, plain(ctx, err))
	}
	return nil
}
