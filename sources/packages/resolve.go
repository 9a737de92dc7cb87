package packages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// packageName is Debian policy 5.6.7. Anything else could be an option, a pattern or a removal to apt.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*[a-z0-9+]$`)

// Resolve returns the packages that installing names brings in, without recommended ones, sorted by name: what they depend on and, for
// a new root file system, the essential packages and apt. The host's apt-get does it in a root of its own below the cache and verifies
// the archive's signatures; its package lists are kept there, so that the next time they are only revalidated, and so is its answer as long as
// they stay the same. Names that the sources do not have are an *recipes.InputError.
func (u *Universe) Resolve(ctx context.Context, c *cache.Cache, names []string) ([]recipes.LockedPackage, error) {
	var problems []recipes.Problem
	for _, name := range names {
		if !packageName.MatchString(name) {
			problems = append(problems, recipes.Problem{Message: fmt.Sprintf("%q is not the name of a package", name)})
		}
	}
	if len(problems) > 0 {
		return nil, recipes.NewInputError(problems...)
	}
	step := progress.Start(ctx, "[resolve] %d packages", len(names))
	packages, err := u.resolve(ctx, c, names)
	return packages, step.Done(err)
}

func (u *Universe) resolve(ctx context.Context, c *cache.Cache, names []string) ([]recipes.LockedPackage, error) {
	key := u.key()
	unlock, err := c.Lock(ctx, "apt-"+key)
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	defer unlock()
	dir, err := c.Dir("apt/" + key)
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	a := apt{dir: dir}
	if err := a.prepare(ctx, u); err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	if err := u.revalidation.update(ctx, a); err != nil {
		return nil, fmt.Errorf("resolving packages: reading the package lists: %w; check the mirror, or set another under mirrors in the recipe", err)
	}
	arguments := []string{"install", "--print-uris", "--yes"}
	if u.bootstrap {
		// Without usr-is-merged apt takes the alternative that merges /usr afterwards, in Perl.
		arguments = append(arguments, "?essential", "apt", "usr-is-merged")
	}
	arguments = append(arguments, names...)
	answer, err := a.answerKey(u, arguments)
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	var packages []recipes.LockedPackage
	if ok, err := c.Fact(answer, &packages); ok || err != nil {
		return packages, err
	}
	output, err := a.run(ctx, arguments...)
	if err != nil {
		return nil, explain(err)
	}
	if packages, err = parseURIs(output); err == nil {
		err = c.PutFact(answer, packages)
	}
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	return packages, nil
}

// apt is the host's apt-get with a root of its own.
type apt struct{ dir string }

func (a apt) configuration() string { return filepath.Join(a.dir, "apt.conf") }

// prepare writes the private root. Package lists of an earlier run stay.
func (a apt) prepare(ctx context.Context, u *Universe) error {
	for _, sub := range []string{"lists/partial", "archives/partial", "parts", "log"} {
		if err := os.MkdirAll(filepath.Join(a.dir, sub), 0o755); err != nil {
			return err
		}
	}
	root := filepath.Join(a.dir, "root")
	for _, sub := range []string{"etc/apt/trusted.gpg.d", "etc/apt/preferences.d"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	for name, text := range u.Files {
		if err := writeFile(filepath.Join(root, path.Clean("/"+name)), text); err != nil {
			return err
		}
	}
	host, err := hostAcquire(ctx)
	if err != nil {
		return err
	}
	quote := func(sub string) string { return strconv.Quote(filepath.Join(a.dir, sub)) }
	settings := []string{
		"Dir " + quote("root"),
		"Dir::Etc::main \"/dev/null\"", "Dir::Etc::parts " + quote("parts"),
		"Dir::Etc::sourcelist " + quote("nodeimg.sources"), "Dir::Etc::sourceparts " + quote("parts"),
		"Dir::Etc::netrc \"/etc/apt/auth.conf\"", "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\"",
		"Dir::State " + quote(""), "Dir::State::lists " + quote("lists"), "Dir::State::status " + quote("status"),
		"Dir::Cache " + quote(""), "Dir::Cache::archives " + quote("archives"), "Dir::Log " + quote("log"),
		"Dir::Bin::methods \"/usr/lib/apt/methods\"",
		fmt.Sprintf("APT::Architecture %q", u.Architecture), fmt.Sprintf("APT::Architectures { %q; }", u.Architecture),
		"APT::Install-Recommends \"false\"", "APT::Install-Suggests \"false\"",
		// The cache may lie where apt's own user cannot go; the files are verified all the same.
		"APT::Sandbox::User \"root\"",
		"Acquire::Languages \"none\"", "Acquire::ForceHash \"SHA256\"", "Acquire::Retries \"3\"",
	}
	text := strings.Join(append(settings, host...), ";\n") + ";\n"
	for name, text := range map[string]string{"apt.conf": text, "nodeimg.sources": u.sourceFile(root), "status": string(u.Status)} {
		if err := writeFile(filepath.Join(a.dir, name), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

// hostAcquire returns how the host's apt reaches its mirrors: proxies, certificates, and whether clocks are to be trusted.
func hostAcquire(ctx context.Context) ([]string, error) {
	output, err := command(ctx, "apt-config", "dump", "--no-empty", "Acquire").Output()
	if err != nil {
		return nil, commandError("apt-config", err, nil)
	}
	var settings []string
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		name := strings.ToLower(line)
		for _, prefix := range []string{"acquire::http::", "acquire::https::", "acquire::check-valid-until ", "acquire::check-date "} {
			if strings.HasPrefix(name, prefix) {
				settings = append(settings, line)
			}
		}
	}
	return settings, nil
}

// run runs apt-get and returns its standard output.
func (a apt) run(ctx context.Context, arguments ...string) ([]byte, error) {
	cmd := command(ctx, "apt-get", append([]string{"-q"}, arguments...)...)
	cmd.Env = append(cmd.Env, "APT_CONFIG="+a.configuration())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, commandError("apt-get", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// command prepares a program of the host in a process group of its own, so that ctx ends its children too.
func command(ctx context.Context, name string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// hostPackages names the package that brings a program.
var hostPackages = map[string]string{"apt-get": "apt", "apt-config": "apt", "dpkg-deb": "dpkg", "mmdebstrap": "mmdebstrap"}

func commandError(name string, err error, stderr []byte) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not on this host; install the package %s", name, hostPackages[name])
	}
	var said []string
	for line := range strings.Lines(string(stderr)) {
		if strings.HasPrefix(line, "E: ") {
			said = append(said, credentials.ReplaceAllString(strings.TrimSpace(line[3:]), "://"))
		}
	}
	if len(said) == 0 {
		said = []string{credentials.ReplaceAllString(tail(stderr, 500), "://")}
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.Join(said, "; "))
}

// credentials are the user and password in a URL that a program repeats.
var credentials = regexp.MustCompile(`://[^/@\s]*@`)

func tail(text []byte, n int) string {
	text = bytes.TrimSpace(text)
	return string(text[max(0, len(text)-n):])
}

var (
	unknownName = regexp.MustCompile(`Unable to locate package (\S+)`)
	noCandidate = regexp.MustCompile(`Package '(\S+)' has no installation candidate`)
)

// explain turns apt's complaint about names that do not exist into an error of the input.
func explain(err error) error {
	var problems []recipes.Problem
	for _, expression := range []*regexp.Regexp{unknownName, noCandidate} {
		for _, match := range expression.FindAllStringSubmatch(err.Error(), -1) {
			name := strings.TrimRight(match[1], ";")
			problems = append(problems, recipes.Problem{Field: "spec.packages", Message: fmt.Sprintf("the distribution has no package %q; check its name and release", name)})
		}
	}
	if len(problems) > 0 {
		return recipes.NewInputError(problems...)
	}
	return fmt.Errorf("resolving packages: %w", err)
}

var uriLine = regexp.MustCompile(`^'([^']+)' (\S+)_(\S+)_(\S+)\.deb (\d+) (\S*)$`)

// parseURIs reads what "apt-get --print-uris" prints: one line for each package with its URL, file name, size in bytes and hash.
func parseURIs(output []byte) ([]recipes.LockedPackage, error) {
	var packages []recipes.LockedPackage
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "'") {
			continue
		}
		match := uriLine.FindStringSubmatch(line)
		if match == nil {
			return nil, fmt.Errorf("apt-get printed %q, expected URL, file, size and hash", credentials.ReplaceAllString(line, "://"))
		}
		hash, ok := strings.CutPrefix(match[6], "SHA256:")
		d := digest.NewDigestFromEncoded(digest.SHA256, hash)
		if err := d.Validate(); err != nil || !ok {
			return nil, fmt.Errorf("apt-get gave no SHA256 of %s: the archive does not publish one", fetch.Redact(match[1]))
		}
		size, err := strconv.ParseInt(match[5], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("apt-get printed the size %q: %w", match[5], err)
		}
		p := recipes.LockedPackage{URL: fetch.Redact(match[1]), Size: size, Digest: d.String()}
		for i, field := range []*string{&p.Name, &p.Version, &p.Architecture} {
			// apt escapes what may not stand in a file name, for instance the colon of an epoch.
			if *field, err = url.PathUnescape(match[2+i]); err != nil {
				return nil, fmt.Errorf("apt-get printed %q: %w", line, err)
			}
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b recipes.LockedPackage) int { return strings.Compare(a.Name, b.Name) })
	return packages, nil
}
