package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// Instances of inotify that nodes have, by count: systemd 3, containerd 2, kubelet 7, kube-proxy and dbus one each; a control plane's API server
// 6 and its controller manager 7 beside them. User namespaces are no way out: their instances count as those of who made them, too.
const (
	nodeInstances         = 14
	controlPlaneInstances = 13
)

// Crowded says what helps when as many nodes more are probably too many for the inotify instances of root on this host; else, and when that
// cannot be known because the Engine is on another host, it returns "".
func Crowded(ctx context.Context, engine *dockerengine.Engine, controlPlanes, nodes int) string {
	info, err := engine.Info(ctx)
	if err != nil || !(&host{engine: &info, address: engine.Host()}).local() {
		return ""
	}
	limit, err := readNumber("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return ""
	}
	return judgeCrowd(controlPlanes*controlPlaneInstances+nodes*nodeInstances, instancesInUse(), limit)
}

func judgeCrowd(needed, used, limit int) string {
	if used+needed <= limit {
		return ""
	}
	setting := max(inotifyInstances, 2*(used+needed))
	return fmt.Sprintf("the nodes need about %d instances of inotify, but root may have %d on this host, of which %d are in use; when nodes fail with "+
		"\"too many open files\": %s", needed, limit, used, sysctl(fmt.Sprintf("fs.inotify.max_user_instances=%d", setting)))
}

// instancesInUse counts those of root, as far as the caller may see them. What programs inherit from each other counts twice.
func instancesInUse() int {
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	count := 0
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != "anon_inode:inotify" {
			continue
		}
		if info, err := os.Lstat(file); err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 {
			count++
		}
	}
	return count
}
