package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// ResizeOptions describe how many workers a cluster shall have.
type ResizeOptions struct {
	Engine *dockerengine.Engine
	// Name is the cluster's.
	Name string
	// Workers are the nodes beside the control plane.
	Workers int
	// Image is the name of the new workers' image in the Engine; empty means that of the last group of workers.
	Image string
	// Wait is how long new nodes may take to boot, and then to be Ready, and how long removed ones may take to be drained; more than 0.
	Wait time.Duration
}

// resizer changes one cluster.
type resizer struct {
	ResizeOptions
	// run marks what is made.
	run          string
	cluster      *Cluster
	controlPlane *member
}

// Resize makes and removes workers of a complete cluster until it has as many as wanted. New ones get the lowest numbers that are free
// and are Ready when it returns; when they cannot be made, what there is of them is removed. The highest numbers are removed, with their
// volumes, after their pods have moved. What an earlier Resize has left that was killed is removed first. Two of them at a time wait for
// each other, whoever calls them. The error is a *recipes.InputError for what cannot be.
func Resize(ctx context.Context, o ResizeOptions) error {
	r := &resizer{ResizeOptions: o, run: newRun()}
	if o.Workers < 0 {
		return recipes.InputErrorf("found %d workers, expected 0 or more", o.Workers)
	}
	c, _, err := running(ctx, o.Engine, o.Name, o.Wait)
	if err != nil {
		return err
	}
	ctx, release, err := lease(ctx, o.Engine, c, o.Wait)
	if err != nil {
		return err
	}
	defer release()
	if r.cluster, r.controlPlane, err = running(ctx, o.Engine, o.Name, o.Wait); err != nil {
		return err
	}
	if r.Image != "" {
		if err := r.checkImage(ctx, r.Image); err != nil {
			return err
		}
	}
	workers, err := r.clean(ctx)
	if err != nil {
		return err
	}
	if len(workers) > o.Workers {
		return r.shrink(ctx, workers[o.Workers:])
	}
	if err := r.grow(ctx, freeNumbers(workers, o.Workers-len(workers))); err != nil {
		return err
	}
	return r.ready(ctx, workers)
}

// ready waits for workers that were there before, one of which may come from a Resize that was killed. None of them is removed.
func (r *resizer) ready(ctx context.Context, workers []worker) error {
	network, err := r.controlPlane.hasPodNetwork(ctx)
	if err != nil || !network || len(workers) == 0 {
		return err
	}
	var members []*member
	for _, w := range workers {
		members = append(members, &member{engine: r.Engine, id: w.ID, name: w.Name, wait: r.Wait})
	}
	return r.controlPlane.awaitReady(ctx, r.Name, members)
}

// checkImage refuses an image whose nodes cannot join.
func (r *resizer) checkImage(ctx context.Context, image string) error {
	version, err := kubernetesOf(ctx, r.Engine, image)
	if err != nil {
		return err
	}
	return checkSkew(image, r.cluster.controlPlanes()[0].Labels[recipes.LabelKubernetes], version)
}

// worker is a worker of the cluster.
type worker struct {
	Node
	number int
}

// workerNumber is the number in the name of a worker.
func workerNumber(cluster, name string) (int, bool) {
	number, err := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
	return number, err == nil && number > 0 && nodeName(cluster, RoleWorker, number) == name
}

// freeNumbers are the lowest numbers that no worker has.
func freeNumbers(workers []worker, count int) []int {
	var free []int
	for number := 1; len(free) < count; number++ {
		if !slices.ContainsFunc(workers, func(w worker) bool { return w.number == number }) {
			free = append(free, number)
		}
	}
	return free
}

// clean removes containers that are no nodes and nodes without a container, and returns the workers by their numbers.
func (r *resizer) clean(ctx context.Context) ([]worker, error) {
	known, err := r.controlPlane.awaitNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the API server of %s for its nodes: %w", r.Name, err)
	}
	if err := r.controlPlane.uncordon(ctx, known); err != nil {
		return nil, err
	}
	var workers, left []worker
	lost := maps.Clone(known)
	for _, node := range r.cluster.Nodes {
		delete(lost, node.Name)
		if node.Role() != RoleWorker {
			continue
		}
		number, _ := workerNumber(r.Name, node.Name)
		w := worker{Node: node, number: number}
		// Whoever has joined may hold pods and volumes, Ready or not.
		if _, joined := known[node.Name]; joined {
			workers = append(workers, w)
		} else {
			left = append(left, w)
		}
	}
	for name := range lost {
		if number, ok := workerNumber(r.Name, name); ok {
			left = append(left, worker{Node: Node{dockerengine.Container{Name: name}}, number: number})
		}
	}
	slices.SortFunc(workers, func(a, b worker) int { return a.number - b.number })
	for i, w := range workers {
		if i < r.Workers && w.State != stateRunning {
			return nil, recipes.InputErrorf("the container %s is %s; nodeimg start --name %s starts it", w.Name, w.State, r.Name)
		}
	}
	return workers, r.remove(ctx, left, "what is no node")
}

// remove removes containers with their volumes, and then their nodes: a kubelet that runs would make its node again.
func (r *resizer) remove(ctx context.Context, workers []worker, what string) error {
	if len(workers) == 0 {
		return nil
	}
	names := make([]string, 0, len(workers))
	for _, w := range workers {
		names = append(names, w.Name)
	}
	step := progress.Start(ctx, "[remove] %s: %s", what, strings.Join(names, ", "))
	var group errgroup.Group
	for _, w := range workers {
		if w.ID != "" {
			group.Go(func() error { return r.Engine.RemoveContainer(ctx, w.ID) })
		}
	}
	if err := group.Wait(); err != nil {
		return step.Done(err)
	}
	return step.Done(r.controlPlane.kubectl(ctx, step, append([]string{"delete", "node", "--ignore-not-found", "--wait=false"}, names...)...))
}

// shrink moves the pods of workers elsewhere and removes the workers. When the pods do not move, all stays as it was.
func (r *resizer) shrink(ctx context.Context, workers []worker) error {
	var names []string
	for _, w := range workers {
		if w.State == stateRunning {
			names = append(names, w.Name)
		}
	}
	var opened map[string][]string
	var err error
	if r.Workers == 0 {
		// The pods have nowhere else to go.
		opened, err = r.openControlPlanes(ctx)
	}
	if err == nil && len(names) > 0 {
		if err = r.controlPlane.drain(ctx, names); err != nil {
			err = fmt.Errorf("moving the pods of %s elsewhere: %w", strings.Join(names, ", "), err)
		}
	}
	if err != nil {
		return tidied(ctx, err, "keeping ordinary pods off the control planes again", func(ctx context.Context) error {
			return r.closeControlPlanes(ctx, opened)
		})
	}
	return r.remove(ctx, workers, "workers")
}

// openControlPlanes lets ordinary pods run on the control planes. It returns the taints that kept them off, by the nodes' names, also when it
// fails, perhaps after some of them are gone.
func (r *resizer) openControlPlanes(ctx context.Context) (map[string][]string, error) {
	known, err := r.controlPlane.nodes(ctx)
	if err != nil {
		return nil, err
	}
	reserved := map[string][]string{}
	for _, n := range r.cluster.controlPlanes() {
		if taints := known[n.Name].reserved; len(taints) > 0 {
			reserved[n.Name] = taints
		}
	}
	if len(reserved) == 0 {
		return nil, nil
	}
	step := progress.Start(ctx, "[%s] control planes take all pods", r.Name)
	untaint := append(append([]string{"taint", "node"}, slices.Sorted(maps.Keys(reserved))...), controlPlaneTaint+"-")
	return reserved, step.Done(r.controlPlane.leashedKubectl(ctx, step, untaint...))
}

// closeControlPlanes gives control planes the taints back that openControlPlanes has returned.
func (r *resizer) closeControlPlanes(ctx context.Context, opened map[string][]string) error {
	if len(opened) == 0 {
		return nil
	}
	step := progress.Start(ctx, "[%s] control planes take only their own pods again", r.Name)
	for _, name := range slices.Sorted(maps.Keys(opened)) {
		if err := r.controlPlane.kubectl(ctx, step, append([]string{"taint", "--overwrite", "node", name}, opened[name]...)...); err != nil {
			return step.Done(err)
		}
	}
	return step.Done(nil)
}

// grow makes workers with the numbers.
func (r *resizer) grow(ctx context.Context, numbers []int) (err error) {
	if len(numbers) == 0 {
		return nil
	}
	like, err := r.Engine.Details(ctx, r.controlPlane.id)
	if err != nil {
		return err
	}
	specs, described, err := r.containers(ctx, like, numbers)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = tidied(ctx, err, "removing what was made, as the next resize does", r.undo)
		}
	}()
	var members []*member
	var invited invitation
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		token, err := r.controlPlane.exec(groupCtx, "kubeadm", "token", "create", "--ttl", (2 * r.Wait).String())
		if err != nil {
			return err
		}
		invited, err = r.controlPlane.invite(groupCtx, strings.TrimSpace(token))
		return err
	})
	group.Go(func() (err error) {
		step := progress.Start(groupCtx, "[create] %d containers of %s", len(specs), r.Name)
		members, err = startAll(groupCtx, r.Engine, r.run, r.Wait, specs...)
		for i := range described {
			members[i].described = described[i]
		}
		if err = step.Done(err); err != nil {
			return err
		}
		return bootAll(groupCtx, members)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	for _, w := range members {
		group.Go(func() error { return w.join(groupCtx, invited, joining{role: RoleWorker}) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := r.controlPlane.labelNodes(ctx, members); err != nil {
		return err
	}
	network, err := r.controlPlane.hasPodNetwork(ctx)
	if err != nil || !network {
		return err
	}
	return r.controlPlane.awaitReady(ctx, r.Name, members)
}

// undo removes what there is of workers that could not be made. A request that was cut off may have made a container all the same.
func (r *resizer) undo(ctx context.Context) error {
	made, err := r.Engine.Containers(ctx, labelRun, r.run)
	if err != nil {
		return err
	}
	left := make([]worker, 0, len(made))
	for _, container := range made {
		left = append(left, worker{Node: Node{container}})
	}
	return r.remove(ctx, left, "what could not be made")
}
