package child

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
)

func TestKilled(t *testing.T) {
	t.Run("runc", func(t *testing.T) { testKilled(t, "") })
	t.Run("sysbox", func(t *testing.T) {
		place := startSysbox(t)
		t.Setenv("PATH", place+":"+os.Getenv("PATH"))
		t.Setenv(sysboxVariable, place)
		testKilled(t, place)
	})
}

// testKilled kills builds of a step that runs under the Sysbox in place, or under runc when there is none.
func testKilled(t *testing.T, place string) {
	for _, test := range []struct {
		name string
		kill func(t *testing.T, nodeimg *exec.Cmd, root string)
		// restart says that only the next start removes everything.
		restart bool
	}{
		{name: "nodeimg", kill: func(t *testing.T, nodeimg *exec.Cmd, _ string) { kill(t, nodeimg.Process.Pid) }},
		{name: "init", kill: func(t *testing.T, _ *exec.Cmd, root string) { kill(t, processes(t, initName, root)...) }},
		{name: "buildkitd", kill: func(t *testing.T, _ *exec.Cmd, root string) {
			kill(t, processes(t, buildtest.Buildkitd(t), root)...)
		}},
		{name: "nodeimg and init", restart: true, kill: func(t *testing.T, nodeimg *exec.Cmd, root string) {
			kill(t, append(processes(t, initName, root), nodeimg.Process.Pid)...)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := buildtest.Cache(t)
			nodeimg, out := play(t, "sleep", c)
			if err := nodeimg.Start(); err != nil {
				t.Fatal(err)
			}
			words := waitForStep(t, c, wordFor(c.Root()))
			if place != "" && len(registered(t, place)) != 1 {
				t.Fatalf("Sysbox has %q", registered(t, place))
			}
			test.kill(t, nodeimg, c.Root())
			if err := nodeimg.Wait(); err == nil {
				t.Fatal("a killed build ended well")
			}
			if test.name == "init" || test.name == "buildkitd" {
				if !strings.Contains(out.String(), "buildkitd ended during the build") || !strings.Contains(out.String(), "buildkitd.log") {
					t.Errorf("the message does not say that the daemon died, or where its log is:\n%s", out)
				}
			}
			switch {
			case test.restart && place != "":
				// Without namespaces of its own, the container lives on until somebody finds it.
			case test.restart:
				buildtest.Eventually(t, "no process and no mount is left", func() bool { return len(buildtest.Leftovers(t, c.Root(), words[2])) == 0 })
			default:
				nothingLeft(t, words)
			}
			d := newDaemon(t, c)
			solve(t, d, c)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, words)
			if place != "" && len(registered(t, place)) > 0 {
				t.Errorf("Sysbox still has %q", registered(t, place))
			}
		})
	}
}

func kill(t *testing.T, ids ...int) {
	t.Helper()
	if len(ids) == 0 {
		t.Fatal("found no process to kill")
	}
	for _, id := range ids {
		if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
