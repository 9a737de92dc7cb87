package main

import (
	"flag"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what the scripts found into their golden files")

// TestMain lets the scripts run this test binary as nodeimg.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nodeimg": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true})
}
