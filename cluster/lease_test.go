package cluster

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestLock takes a lock, in vain while another one holds it, and after that one has ended.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not there yet", "lease")
	begin := func() (cmd *exec.Cmd, stdin io.Closer, said string) {
		t.Helper()
		command := lockCommand(path, 0)
		cmd = exec.CommandContext(t.Context(), command[0], command[1:]...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said, _ = bufio.NewReader(stdout).ReadString('\n')
		return cmd, stdin, said
	}
	for range 2 {
		holder, stdin, said := begin()
		if said != "held\n" {
			t.Fatalf("a lock that is free: said %q, %v", said, holder.Wait())
		}
		other, _, said := begin()
		if err := other.Wait(); said != "" || other.ProcessState.ExitCode() != leaseHeld {
			t.Errorf("a lock that is held: said %q, %v", said, err)
		}
		if err := stdin.Close(); err != nil {
			t.Fatal(err)
		}
		if err := holder.Wait(); err != nil {
			t.Error(err)
		}
	}
	if wait := lockCommand(path, 1500*time.Millisecond)[4]; wait != "2" {
		t.Errorf("1.5 s are %s s", wait)
	}
}
