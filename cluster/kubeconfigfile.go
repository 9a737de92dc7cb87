package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	confs "github.com/containerd/continuity/fs"
	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodeimg/nodeimg/recipes"
)

// CheckKubeconfig says whether MergeKubeconfig can change the kubeconfig at path, which need not be there, and leaves nothing. The error is a
// *recipes.InputError when there is something that is no kubeconfig.
func CheckKubeconfig(ctx context.Context, path string) error {
	real, err := realKubeconfig(path)
	if err != nil {
		return err
	}
	folder := filepath.Dir(real)
	for absent(folder) {
		folder = filepath.Dir(folder)
	}
	if folder != filepath.Dir(real) {
		// Folders that are made and removed again would be gone for another nodeimg that has just seen them.
		if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return changing(path, fmt.Errorf("making its folder in %s: %w", folder, err))
		}
		return nil
	}
	return lockedKubeconfig(ctx, path, real, func(*api.Config) error {
		staged, err := stageKubeconfig(real)
		if err != nil {
			return err
		}
		return errors.Join(staged.Close(), os.Remove(staged.Name()))
	})
}

// MergeKubeconfig adds the one context of config to the kubeconfig at path and makes it the current one. The file appears by rename, keeps
// its owner and permissions, and nobody else who locks as kubectl does writes at the same time.
func MergeKubeconfig(ctx context.Context, path string, config []byte) error {
	added, err := clientcmd.Load(config)
	if err != nil {
		return fmt.Errorf("adding to kubeconfig %s: %w", path, err)
	}
	real, err := realKubeconfig(path)
	if err != nil {
		return err
	}
	if err := makeFolders(filepath.Dir(real)); err != nil {
		return changing(path, err)
	}
	return lockedKubeconfig(ctx, path, real, func(all *api.Config) error {
		maps.Copy(all.Clusters, added.Clusters)
		maps.Copy(all.AuthInfos, added.AuthInfos)
		maps.Copy(all.Contexts, added.Contexts)
		all.CurrentContext = added.CurrentContext
		return replaceKubeconfig(real, all)
	})
}

// ForgetKubeconfig takes the cluster's context, cluster and user out of the kubeconfig at path. A file without them is left alone.
func ForgetKubeconfig(ctx context.Context, path, cluster string) error {
	real, err := realKubeconfig(path)
	if err != nil {
		return err
	}
	if absent(filepath.Dir(real)) {
		return nil
	}
	own := ContextName(cluster)
	err = lockedKubeconfig(ctx, path, real, func(all *api.Config) error {
		if !knows(all, own) {
			return nil
		}
		delete(all.Contexts, own)
		delete(all.Clusters, own)
		delete(all.AuthInfos, own)
		if all.CurrentContext == own {
			all.CurrentContext = ""
		}
		return replaceKubeconfig(real, all)
	})
	if err != nil {
		// A file that cannot be changed need not be.
		if all, readErr := readKubeconfig(real); readErr == nil && !knows(all, own) {
			return nil
		}
	}
	return err
}

// knows says that the kubeconfig has anything of the name.
func knows(all *api.Config, name string) bool {
	return all.Contexts[name] != nil || all.Clusters[name] != nil || all.AuthInfos[name] != nil
}

func changing(path string, err error) error {
	return fmt.Errorf("changing kubeconfig %s: %w; --kubeconfig names another one", path, err)
}

// realKubeconfig is the file that path names, or that links at path lead to, whether it is there or not. That one is replaced, not the link.
func realKubeconfig(path string) (string, error) {
	real, err := filepath.Abs(path)
	if err == nil {
		real, err = confs.RootPath("/", real)
	}
	if err != nil {
		return "", fmt.Errorf("reading kubeconfig %s: %w", path, err)
	}
	if info, err := os.Stat(real); err == nil && info.IsDir() || strings.HasSuffix(path, "/") {
		return "", recipes.InputErrorf("kubeconfig %s is a folder; name a file with --kubeconfig", path)
	}
	return real, nil
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func readKubeconfig(path string) (*api.Config, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return api.NewConfig(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", path, err)
	}
	config, err := clientcmd.Load(text)
	if err != nil {
		return nil, recipes.InputErrorf("kubeconfig %s: %v; mend it, or name another file with --kubeconfig", path, err)
	}
	return config, nil
}

// lockedKubeconfig reads the file and calls do, while nobody else changes it.
func lockedKubeconfig(ctx context.Context, path, real string, do func(*api.Config) error) error {
	unlock, err := lockKubeconfig(ctx, path, filepath.Dir(real))
	if err != nil {
		return changing(path, err)
	}
	defer unlock()
	// What a nodeimg left that was killed.
	if err := os.Remove(stagedName(real)); err != nil && !os.IsNotExist(err) {
		return changing(path, err)
	}
	all, err := readKubeconfig(real)
	if err != nil {
		return err
	}
	if err := do(all); err != nil {
		return changing(path, err)
	}
	return nil
}

// lockPoll is how often a lock is tried that somebody else has, and lockLimit how long: changing a file takes milliseconds.
const (
	lockPoll  = 50 * time.Millisecond
	lockLimit = 10 * time.Second
)

// lockKubeconfig waits until nobody else changes the file. Another nodeimg is kept out by a lock on the real file's folder, which
// ends with the process; kubectl by the file that it makes itself (k8s.io/client-go/tools/clientcmd, lockFile). Of a nodeimg that was killed such a file
// can stay; kubectl's have no permissions, so it can be told.
func lockKubeconfig(ctx context.Context, path, realFolder string) (unlock func(), err error) {
	limited, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	folder := flock.New(realFolder, flock.SetFlag(os.O_RDONLY))
	// Not every file system can lock a folder; on those kubectl's way has to do.
	alone, _ := folder.TryLockContext(limited, lockPoll)
	file := path + ".lock"
	for {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() {
				_ = f.Close()
				_ = os.Remove(file)
				_ = folder.Close()
			}, nil
		}
		if info, statErr := os.Lstat(file); alone && statErr == nil && info.Mode().Perm() != 0 {
			_ = os.Remove(file)
			continue
		}
		if !os.IsExist(err) {
			_ = folder.Close()
			return nil, err
		}
		select {
		case <-limited.Done():
			_ = folder.Close()
			return nil, fmt.Errorf("somebody else has locked it with %s; remove that file if nobody does: %w", file, context.Cause(limited))
		case <-time.After(lockPoll):
		}
	}
}

// replaceKubeconfig writes the file anew.
func replaceKubeconfig(real string, all *api.Config) error {
	text, err := clientcmd.Write(*all)
	if err != nil {
		return err
	}
	staged, err := stageKubeconfig(real)
	if err != nil {
		return err
	}
	_, err = staged.Write(text)
	if err = errors.Join(err, staged.Close()); err == nil {
		err = os.Rename(staged.Name(), real)
	}
	if err != nil {
		_ = os.Remove(staged.Name())
	}
	return err
}

// stageKubeconfig makes the empty file that is to replace the one at real, with the same owner and permissions.
func stageKubeconfig(real string) (_ *os.File, err error) {
	info, err := os.Stat(real)
	if os.IsNotExist(err) {
		info, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info != nil && !info.Mode().IsRegular() {
		return nil, recipes.InputErrorf("it is a device or the like, which cannot be replaced")
	}
	staged := stagedName(real)
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(staged)
		}
	}()
	if info == nil {
		return f, inherit(f)
	}
	if err := give(f, info); err != nil {
		return nil, fmt.Errorf("keeping its owner: %w", err)
	}
	return f, f.Chmod(info.Mode().Perm())
}

// stagedName is always the same, so that what a nodeimg left that was killed can be found.
func stagedName(real string) string { return real + ".nodeimg" }

// makeFolders makes the folder, and those above it that are missing.
func makeFolders(folder string) error {
	err := os.Mkdir(folder, 0o755)
	if os.IsNotExist(err) {
		if err := makeFolders(filepath.Dir(folder)); err != nil {
			return err
		}
		err = os.Mkdir(folder, 0o755)
	}
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// Whoever owns what is above can replace the folder by a link.
	made, err := os.OpenFile(folder, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(inherit(made), made.Close())
}

// inherit gives what root has made in another user's folder to that user, who could not read it otherwise.
func inherit(made *os.File) error {
	folder, err := os.Stat(filepath.Dir(made.Name()))
	if err != nil || os.Geteuid() != 0 || folder.Sys().(*syscall.Stat_t).Uid == 0 {
		return err
	}
	return give(made, folder)
}

// give makes the owner and group of a file those of another one.
func give(f *os.File, like fs.FileInfo) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, want := info.Sys().(*syscall.Stat_t), like.Sys().(*syscall.Stat_t)
	if is.Uid == want.Uid && is.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}
