package recipes

import (
	"bytes"
	"embed"
	"io/fs"
)

//go:embed *.yaml
var shipped embed.FS

// Shipped returns the recipes that come with nodeimg, one file each (k8s-node.yaml, …). All of them are valid and are built in the tests.
func Shipped() fs.FS { return shipped }

//go:embed template/recipe.yaml
var template []byte

// Template returns the recipe that "nodeimg init" writes: valid as it stands, with every field shown and explained.
func Template() []byte { return bytes.Clone(template) }
