package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Below diskLow a second node image may not fit any more, or the build steps that the child keeps; below diskOut not even one.
const (
	diskLow = 10 << 30
	diskOut = 1 << 30
	// inodesLow is less than one unpacked node image can need.
	inodesLow = 100_000
)

// disk is what is free where a folder lies, or will lie.
type disk struct {
	folder      string
	free, total uint64
	// inodes are the free ones; limited says that there is a limit at all.
	inodes  uint64
	limited bool
}

// existing is the folder itself or the nearest one above it that exists.
func existing(folder string) (string, error) {
	for {
		_, err := os.Stat(folder)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || folder == filepath.Dir(folder) {
			return folder, err
		}
		folder = filepath.Dir(folder)
	}
}

func readDisk(folder string) (disk, error) {
	place, err := existing(folder)
	if err != nil {
		return disk{}, err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(place, &stat); err != nil {
		return disk{}, fmt.Errorf("looking at the disk of %s: %w", place, err)
	}
	size := uint64(stat.Bsize)
	return disk{folder, stat.Bavail * size, stat.Blocks * size, stat.Ffree, stat.Files > 0}, nil
}

// judgeDisk looks at what is free; remedy is how to make room.
func judgeDisk(d disk, remedy string) verdict {
	found := fmt.Sprintf("%s: %.1f of %.1f GiB free", d.folder, float64(d.free)/(1<<30), float64(d.total)/(1<<30))
	switch {
	case d.free < diskOut:
		return verdict{Failed, found, remedy}
	case d.free < diskLow:
		return verdict{Warning, found, remedy}
	case d.limited && d.inodes < inodesLow:
		return verdict{Warning, fmt.Sprintf("%s, but only %d inodes", found, d.inodes), remedy}
	}
	return verdict{OK, found, ""}
}

func checkCacheDisk(_ context.Context, h *host) verdict {
	if h.cacheErr != nil {
		return verdict{Failed, h.cacheErr.Error(), "set NODEIMG_CACHE to a folder on a disk with room"}
	}
	d, err := readDisk(h.cache)
	if err != nil {
		return verdict{Failed, err.Error(), "set NODEIMG_CACHE to a folder that can be made, on a disk with room"}
	}
	return judgeDisk(d, "remove the cache while no nodeimg runs, or set NODEIMG_CACHE to a folder on a larger disk")
}

func checkEngineDisk(_ context.Context, h *host) verdict {
	if v, ok := h.withoutEngine(); ok {
		return v
	}
	if !h.local() {
		return verdict{Unknown, h.engine.Root + " is on " + h.engine.Hostname, "look there: df -h " + h.engine.Root}
	}
	d, err := readDisk(h.engine.Root)
	if err != nil {
		return verdict{Unknown, err.Error(), "look as root: df -h " + h.engine.Root}
	}
	return judgeDisk(d, "docker system prune removes what no container uses; \"data-root\" in /etc/docker/daemon.json moves the Engine's data")
}
