package upstream

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/recipes"
)

// addReleases lays the lock's programs out as their projects' release pages do. Names of files and the forms of checksum files are
// those of Kubernetes v1.34, containerd v2.4, runc v1.5, the CNI plugins v1.9 and cri-tools v1.36.
func (s *Server) addReleases(ctx context.Context, lock *recipes.Lock) error {
	arch := strings.TrimPrefix(lock.Platform, "linux/")
	byProject := map[string][]recipes.LockedPart{}
	for _, part := range lock.Parts {
		byProject[part.Name] = append(byProject[part.Name], part)
	}
	for _, part := range append(byProject["kubernetes"], byProject["kubeadm"]...) {
		url := fmt.Sprintf("/dl.k8s.io/release/%s/bin/linux/%s/%s", part.Version, arch, path.Base(part.Path))
		s.files[url] = file{blob: digest.Digest(part.Digest)}
		// The sum alone, without a line end.
		s.files[url+".sha256"] = file{text: digest.Digest(part.Digest).Encoded()}
	}
	for _, part := range byProject["runc"] {
		base := fmt.Sprintf("/github.com/opencontainers/runc/releases/download/%s/", part.Version)
		s.files[base+"runc."+arch] = file{blob: digest.Digest(part.Digest)}
		// One list for all files, with two spaces as sha256sum writes it.
		other := digest.FromString("some other file of the release").Encoded()
		s.files[base+"runc.sha256sum"] = file{text: fmt.Sprintf("%s  runc.tar.xz\n%s  runc.%s\n", other, digest.Digest(part.Digest).Encoded(), arch)}
	}
	for _, archive := range []struct {
		project, url, sumSuffix string
		// prefix is the folder of the programs in the archive.
		prefix string
		// alone says that the checksum file holds nothing but the sum.
		alone bool
	}{
		{"containerd", "containerd/containerd/releases/download/%[1]s/containerd-%[2]s-linux-%[3]s.tar.gz", ".sha256sum", "bin/", false},
		{"cni-plugins", "containernetworking/plugins/releases/download/%[1]s/cni-plugins-linux-%[3]s-%[1]s.tgz", ".sha256", "./", false},
		{"cri-tools", "kubernetes-sigs/cri-tools/releases/download/%[1]s/crictl-%[1]s-linux-%[3]s.tar.gz", ".sha256", "", true},
	} {
		parts := byProject[archive.project]
		if len(parts) == 0 {
			return fmt.Errorf("the lock has no program of %s; resolve a recipe with source modules", archive.project)
		}
		version := parts[0].Version
		blob, err := pack(ctx, s.cache, parts, archive.prefix)
		if err != nil {
			return fmt.Errorf("packing %s: %w", archive.project, err)
		}
		url := "/github.com/" + fmt.Sprintf(archive.url, version, strings.TrimPrefix(version, "v"), arch)
		s.files[url] = file{blob: blob}
		text := blob.Encoded() + "  " + path.Base(url) + "\n"
		if archive.alone {
			text = blob.Encoded() + "\n"
		}
		s.files[url+archive.sumSuffix] = file{text: text}
	}
	return nil
}

// pack puts the programs into an archive below prefix, and that into the cache.
func pack(ctx context.Context, c *cache.Cache, parts []recipes.LockedPart, prefix string) (digest.Digest, error) {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b recipes.LockedPart) int { return strings.Compare(a.Path, b.Path) })
	key := "test-upstream-archive " + prefix
	for _, part := range parts {
		key += " " + path.Base(part.Path) + " " + part.Digest
	}
	key = "test-upstream-archive-" + digest.FromString(key).Encoded()
	var known digest.Digest
	if ok, err := c.Fact(key, &known); err != nil || ok && c.Has(known) {
		return known, err
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(writeArchive(ctx, writer, c, parts, prefix)) }()
	blob, _, err := c.Put(reader, "")
	if err != nil {
		_ = reader.CloseWithError(err)
		return "", err
	}
	return blob, c.PutFact(key, blob)
}

func writeArchive(ctx context.Context, w io.Writer, c *cache.Cache, parts []recipes.LockedPart, prefix string) error {
	zipped, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zipped)
	if prefix != "" {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: prefix, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, part := range parts {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: prefix + path.Base(part.Path), Mode: 0o755, Size: part.Size}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		f, err := c.Open(digest.Digest(part.Digest))
		if err != nil {
			return err
		}
		_, err = io.Copy(archive, f)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}
