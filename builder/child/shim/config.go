package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// name is the base name of the link under which nodeimg is called as a runtime.
const name = "nodeimg-oci-runtime"

// Config says what a runtime in a folder calls. It lies beside the runtime, because BuildKit passes nothing through.
type Config struct {
	// Runc runs the steps that are not marked, Sysbox those that are: paths.
	Runc, Sysbox string
	// Mark is the name of the environment variable that marks a step.
	Mark string
	// Logs are where Sysbox's daemons write.
	Logs []string
}

// Path is the runtime in the folder dir.
func Path(dir string) string { return filepath.Join(dir, name) }

// The parts of a folder with a runtime.
func configPath(dir string) string          { return filepath.Join(dir, "config.json") }
func containersDir(dir string) string       { return filepath.Join(dir, "containers") }
func logDir(dir string) string              { return filepath.Join(dir, "log") }
func stateDir(dir, runtime string) string   { return filepath.Join(dir, "state", filepath.Base(runtime)) }
func markPath(dir, container string) string { return filepath.Join(containersDir(dir), container) }
func logPath(dir, container string) string  { return filepath.Join(logDir(dir), container) }

// Install makes the runtime of c in the new folder dir. The program is this process's own, even if its file is replaced meanwhile; the
// runtime works as long as this process lives.
func Install(dir string, c Config) error {
	for _, d := range []string{dir, containersDir(dir), logDir(dir)} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(configPath(dir), b, 0o600); err != nil {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/exe", os.Getpid()), Path(dir))
}

// read returns the configuration of the runtime in dir.
func read(dir string) (Config, error) {
	var c Config
	b, err := os.ReadFile(configPath(dir))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("reading %s: %w", configPath(dir), err)
	}
	return c, nil
}

// marked returns the ids of the containers that the runtime in dir gave to Sysbox and that were not deleted.
func marked(dir string) ([]string, error) {
	entries, err := os.ReadDir(containersDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}
