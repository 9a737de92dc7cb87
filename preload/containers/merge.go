package containers

import (
	"cmp"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Layers are the ids of the layers that a store's overlay-layers/layers.json names.
func Layers(text []byte) (map[string]bool, error) {
	var records []layerRecord
	if err := json.Unmarshal(text, &records); err != nil {
		return nil, fmt.Errorf("reading the layers of CRI-O's image store: %w", err)
	}
	ids := map[string]bool{}
	for _, r := range records {
		ids[r.ID] = true
	}
	return ids, nil
}

// Names are the names of the images that a store's overlay-images/images.json names.
func Names(text []byte) ([]string, error) {
	var records []imageRecord
	if err := json.Unmarshal(text, &records); err != nil {
		return nil, fmt.Errorf("reading the images of CRI-O's image store: %w", err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Names...)
	}
	return names, nil
}

// Merge returns a store with the images of both stores, sorted by path. Added takes over names that images of current have. An image of
// current that had no name already is left out, unless it is in use, and so are layers that no image needs. Layers of current stay as they
// are. The lock files, by which CRI-O notices that it has to read the records anew, differ as soon as these do.
func Merge(current, added []File, inUse func(id string) bool) ([]File, error) {
	have, err := readRecords(current)
	if err != nil {
		return nil, fmt.Errorf("reading the image store of the node: %w", err)
	}
	more, err := readRecords(added)
	if err != nil {
		return nil, err
	}
	moved := map[string]bool{}
	for _, image := range more.images {
		for _, name := range image.Names {
			moved[name] = true
		}
	}
	merged := &records{files: map[string]File{}, layers: more.layers, images: more.images}
	maps.Copy(merged.files, more.files)
	for id, image := range have.images {
		named := len(image.Names) > 0
		image.Names = slices.DeleteFunc(image.Names, func(name string) bool { return moved[name] })
		again, both := more.images[id]
		switch {
		case both:
			image = again.with(image)
		case !named && !inUse(id):
			continue
		}
		merged.images[id] = image
	}
	maps.Copy(merged.layers, have.layers)
	maps.Copy(merged.files, have.files)
	return merged.write()
}

// records are what the files of a store say, by ids.
type records struct {
	files  map[string]File
	layers map[string]layerRecord
	images map[string]imageRecord
}

func readRecords(files []File) (*records, error) {
	r := &records{files: map[string]File{}, layers: map[string]layerRecord{}, images: map[string]imageRecord{}}
	for _, f := range files {
		r.files[f.Path] = f
	}
	var layers []layerRecord
	if err := json.Unmarshal(r.files[layersFolder+"/layers.json"].Content, &layers); err != nil {
		return nil, fmt.Errorf("reading layers.json: %w", err)
	}
	for _, l := range layers {
		r.layers[l.ID] = l
	}
	var images []imageRecord
	if err := json.Unmarshal(r.files[imagesFolder+"/images.json"].Content, &images); err != nil {
		return nil, fmt.Errorf("reading images.json: %w", err)
	}
	for _, i := range images {
		r.images[i.ID] = i
	}
	return r, nil
}

// with returns the image with the names and data that another record of it has.
func (r imageRecord) with(other imageRecord) imageRecord {
	r.Names = append(slices.Clone(r.Names), other.Names...)
	slices.Sort(r.Names)
	r.BigDataNames = slices.Clone(r.BigDataNames)
	r.BigDataSizes, r.BigDataDigests = maps.Clone(r.BigDataSizes), maps.Clone(r.BigDataDigests)
	for _, key := range other.BigDataNames {
		if _, there := r.BigDataSizes[key]; !there {
			r.BigDataNames = append(r.BigDataNames, key)
			r.BigDataSizes[key], r.BigDataDigests[key] = other.BigDataSizes[key], other.BigDataDigests[key]
		}
	}
	return r
}

// write returns the files of the images and of the layers that they need.
func (r *records) write() ([]File, error) {
	var files []File
	layers, images := []layerRecord{}, []imageRecord{}
	written := map[string]bool{}
	var add func(id string) error
	add = func(id string) error {
		if id == "" || written[id] {
			return nil
		}
		written[id] = true
		layer, ok := r.layers[id]
		if !ok {
			return fmt.Errorf("the image store has no layer %s, which an image or layer needs", id)
		}
		// Parents come first.
		if err := add(layer.Parent); err != nil {
			return err
		}
		layers = append(layers, layer)
		folder := driver + "/" + id
		link := driver + "/" + linksFolder + "/" + string(r.files[folder+"/link"].Content)
		for _, name := range []string{folder + "/diff", folder + "/link", folder + "/lower", link} {
			if f, ok := r.files[name]; ok {
				files = append(files, f)
			} else if path.Base(name) != "lower" {
				return fmt.Errorf("the image store has no %s", name)
			}
		}
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.images)) {
		image := r.images[id]
		if err := add(image.TopLayer); err != nil {
			return nil, err
		}
		images = append(images, image)
		for _, key := range image.BigDataNames {
			f, ok := r.files[dataPath(id, key)]
			if !ok {
				return nil, fmt.Errorf("the image store has no %s", dataPath(id, key))
			}
			files = append(files, f)
		}
	}
	layersText, err := json.Marshal(layers)
	if err != nil {
		return nil, err
	}
	imagesText, err := json.Marshal(images)
	if err != nil {
		return nil, err
	}
	// As long as what the library writes into its lock files (pkg/lockfile/lastwrite.go).
	lock := sha512.Sum512(slices.Concat(layersText, imagesText))
	files = append(files,
		File{Path: layersFolder + "/layers.json", Content: layersText}, File{Path: layersFolder + "/layers.lock", Content: lock[:]},
		File{Path: imagesFolder + "/images.json", Content: imagesText}, File{Path: imagesFolder + "/images.lock", Content: lock[:]})
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

// Trees are the names of the trees below the folder that the layers of a store lead to, sorted.
func Trees(files []File, folder string) []string {
	var names []string
	for _, f := range files {
		rest, ok := strings.CutPrefix(f.Link, folder+"/")
		if name, ok2 := strings.CutSuffix(rest, "/fs"); ok && ok2 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Pinned is the part of CRI-O's configuration that keeps the kubelet from collecting images of these names (crio.conf(5), pinned_images).
func Pinned(names []string) []byte {
	var b strings.Builder
	b.WriteString("[crio.image]\npinned_images = [\n")
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		fmt.Fprintf(&b, "  %q,\n", name)
	}
	b.WriteString("]\n")
	return []byte(b.String())
}
