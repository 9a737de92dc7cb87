// Command schemagen writes the JSON Schema of descriptions of clusters. It runs in the config folder, by go generate.
package main

import (
	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/strictyaml/schemagen"
)

func main() { schemagen.Main(generate) }

func generate() ([]byte, error) {
	return schemagen.Generate(&config.Cluster{}, "nodeimg cluster", nil)
}
