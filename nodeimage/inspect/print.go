package inspect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// WriteJSON writes the report as indented JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}

// WriteText writes the report as tables for people.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"Image", r.Reference},
		{"Digest", r.Digest},
		{"Platform", r.Platform},
		{"Created", r.Created.Format(time.RFC3339)},
		{"Size", size(r.Size)},
		{"Recipe", r.Name + " " + r.Recipe},
		{"Kubernetes", r.Kubernetes},
		{"Distribution", r.Distro.String()},
		{"CRI", r.CRI.String()},
		{"CNI", r.CNI},
	} {
		fmt.Fprintf(t, "%s:\t%s\n", row[0], row[1])
	}
	fmt.Fprintf(t, "\nPRELOADED IMAGE (%d)\tSIZE\tDIGEST\n", len(r.Preloaded))
	for _, image := range r.Preloaded {
		fmt.Fprintf(t, "%s\t%s\t%s\n", image.Reference, size(image.Size), short(image.Digest))
	}
	if len(r.Changed) > 0 {
		fmt.Fprintf(t, "\nCHANGED SINCE THE BUILD (%d)\tBEFORE\tNOW\n", len(r.Changed))
		for _, image := range r.Changed {
			fmt.Fprintf(t, "%s\t%s\t%s\n", image.Reference, cmp.Or(short(image.Before), "not there"), cmp.Or(short(image.After), "removed"))
		}
	}
	fmt.Fprintf(t, "\nLAYER (%d)\tSIZE\tHOLDS\n", len(r.Layers))
	for _, layer := range r.Layers {
		fmt.Fprintf(t, "%s\t%s\t%s\n", short(layer.Digest), size(layer.Size), layer.Holds)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}

// short is as much of a digest as tells it from others.
func short(digest string) string { return digest[:min(len(digest), len("sha256:")+12)] }

// size renders bytes in decimal units, as docker does.
func size(bytes int64) string {
	const unit = 1000
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefix := float64(bytes)/unit, 0
	for value >= unit && prefix < len("kMGT")-1 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGT"[prefix])
}
