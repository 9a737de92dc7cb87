package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/recipes"
)

// patched applies patches to the documents of their kinds: first those that are merged (RFC 7396), then lists of operations (RFC 6902). A
// patch that names a version is for documents of that version only, so that there can be one for each. When a document's kind has patches,
// none of which is for its version, that is an error.
func patched(list []document, merges []string, operations []config.PatchJSON6902) ([]document, error) {
	patches := make([]document, len(merges))
	for i, text := range merges {
		if err := yaml.Unmarshal([]byte(text), &patches[i]); err != nil {
			return nil, recipes.InputErrorf("reading a kubeadm patch: %v", err)
		}
	}
	var result []document
	for _, doc := range list {
		kind, _ := doc["kind"].(string)
		version, _ := doc["apiVersion"].(string)
		var other []string
		fits := 0
		for _, patch := range patches {
			switch wanted, _ := patch["apiVersion"].(string); {
			case patch["kind"] != kind:
			case wanted != "" && wanted != version:
				other = append(other, wanted)
			default:
				fits++
				var err error
				if doc, err = merged(doc, patch); err != nil {
					return nil, recipes.InputErrorf("merging a kubeadm patch into the %s: %v", kind, err)
				}
			}
		}
		group, number, _ := strings.Cut(version, "/")
		for _, p := range operations {
			switch {
			case p.Kind != kind:
			case p.Group != "" && p.Group != group || p.Version != "" && p.Version != number:
				other = append(other, p.Group+"/"+p.Version)
			default:
				fits++
				var err error
				if doc, err = operated(doc, p); err != nil {
					return nil, recipes.InputErrorf("applying a kubeadm patch to the %s: %v", kind, err)
				}
			}
		}
		if fits == 0 && len(other) > 0 {
			return nil, recipes.InputErrorf("the patches of the %s are for %s, but the node image's is %s", kind, strings.Join(other, " and "), version)
		}
		result = append(result, doc)
	}
	return result, nil
}

// merged merges a patch into a document. Arguments of programs are merged by their names, in whatever form they stand.
func merged(doc, patch document) (document, error) {
	byName(patch)
	asList := byName(doc)
	var out document
	err := viaJSON(doc, &out, func(text []byte) ([]byte, error) {
		change, err := json.Marshal(patch)
		if err != nil {
			return nil, err
		}
		return jsonpatch.MergePatch(text, change)
	})
	if err != nil {
		return nil, err
	}
	if asList || !oldArguments(doc) {
		asLists(out)
	}
	return out, nil
}

// operated applies a list of operations to a document.
func operated(doc document, p config.PatchJSON6902) (document, error) {
	operations, err := p.Operations()
	if err != nil {
		return nil, err
	}
	var out document
	return out, viaJSON(doc, &out, operations.Apply)
}

func viaJSON(in document, out *document, change func([]byte) ([]byte, error)) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if text, err = change(text); err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// argumentFields are the fields of kubeadm documents with arguments of programs, by the components that have them.
var argumentFields = map[string]string{
	"apiServer": "extraArgs", "controllerManager": "extraArgs", "scheduler": "extraArgs", "nodeRegistration": "kubeletExtraArgs",
}

// eachArguments calls f for every mapping of a document that may have arguments, and the field's name.
func eachArguments(doc document, f func(in document, field string)) {
	for component, field := range argumentFields {
		if in, ok := doc[component].(document); ok && in[field] != nil {
			f(in, field)
		}
	}
	if etcd, ok := doc["etcd"].(document); ok {
		if local, ok := etcd["local"].(document); ok && local["extraArgs"] != nil {
			f(local, "extraArgs")
		}
	}
}

// byName makes mappings of lists of arguments, unless a name stands in one twice, and says whether there were any lists.
func byName(doc document) bool {
	found := false
	eachArguments(doc, func(in document, field string) {
		if mapping, ok := in[field].(document); ok {
			for name, value := range mapping {
				if value != nil {
					mapping[name] = fmt.Sprint(value)
				}
			}
			return
		}
		list, _ := in[field].([]any)
		mapping := document{}
		for _, entry := range list {
			argument, _ := entry.(document)
			name, _ := argument["name"].(string)
			if _, again := mapping[name]; again || name == "" {
				return
			}
			mapping[name] = fmt.Sprint(argument["value"])
		}
		in[field], found = mapping, true
	})
	return found
}

// asLists makes lists of mappings of arguments, sorted by name.
func asLists(doc document) {
	eachArguments(doc, func(in document, field string) {
		mapping, ok := in[field].(document)
		if !ok {
			return
		}
		list := []any{}
		for _, name := range slices.Sorted(maps.Keys(mapping)) {
			list = append(list, document{"name": name, "value": mapping[name]})
		}
		in[field] = list
	})
}
