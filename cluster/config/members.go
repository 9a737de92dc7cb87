package config

import (
	"maps"
	"slices"
)

// Member is one node of a cluster.
type Member struct {
	// Group describes the node, with what the cluster gives to all nodes.
	Group
	Role Role
	// Number counts from 1 within the role.
	Number int
}

// Members are all nodes of the cluster, control planes first.
func (s Spec) Members() []Member {
	return append(s.members(RoleControlPlane, s.ControlPlanes), s.members(RoleWorker, s.Workers)...)
}

func (s Spec) members(role Role, groups Groups) []Member {
	var members []Member
	for _, group := range groups {
		for range group.Count {
			members = append(members, s.Member(group, role, len(members)+1))
		}
	}
	return members
}

// Member is a node of the group, with what the cluster gives to all nodes.
func (s Spec) Member(group Group, role Role, number int) Member {
	if group.Image == "" {
		group.Image = s.Image
	}
	if group.Memory == "" {
		group.Memory = s.Memory
	}
	if group.CPUs == 0 {
		group.CPUs = s.CPUs
	}
	env := maps.Clone(s.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, group.Env)
	group.Env = env
	group.Count = 1
	group.Mounts = slices.Concat(s.Mounts, group.Mounts)
	group.KubeadmPatches = slices.Concat(s.KubeadmPatches, group.KubeadmPatches)
	group.KubeadmPatchesJSON6902 = slices.Concat(s.KubeadmPatchesJSON6902, group.KubeadmPatchesJSON6902)
	return Member{Group: group, Role: role, Number: number}
}

// Single returns the groups with the node of the number, which counts from 1, in a group of its own, and that group's index. The index is
// -1 when there is no such node. Nothing changes for any node: patches that are for the first control plane alone stay with it.
func (g Groups) Single(number int) (Groups, int) {
	first := 1
	for i, group := range g {
		if number >= first+group.Count {
			first += group.Count
			continue
		}
		split := slices.Clone(g[:i])
		add := func(count int) {
			if count > 0 {
				part := group
				part.Count, part.Ports = count, slices.Clone(group.Ports)
				if len(split) > 0 {
					part.KubeadmPatches, part.KubeadmPatchesJSON6902 = joiningPatches(group)
				}
				split = append(split, part)
			}
		}
		add(number - first)
		add(1)
		index := len(split) - 1
		add(first + group.Count - 1 - number)
		return append(split, g[i+1:]...), index
	}
	return g, -1
}

// Last describes nodes like those of the last group, for more of them: without ports of the host, which are taken.
func (g Groups) Last() Group {
	if len(g) == 0 {
		return Group{Count: 1}
	}
	last := g[len(g)-1]
	last.Count = 1
	last.Ports = slices.DeleteFunc(slices.Clone(last.Ports), func(p Port) bool { return p.HostPort != 0 })
	return last
}
