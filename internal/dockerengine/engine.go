package dockerengine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/opencontainers/go-digest"
)

// UserAgent is what the Engine's log shows for requests of this program.
const UserAgent = "nodeimg"

// Engine is a connection to a running Docker Engine. Its methods are safe for concurrent use. The caller must Close it.
type Engine struct {
	client *client.Client
}

// Open connects to the Docker Engine that the environment names and makes sure that it answers. The error names the address that
// was tried and what to do.
func Open(ctx context.Context) (*Engine, error) {
	target, err := endpointFromEnvironment()
	if err != nil {
		return nil, fmt.Errorf("finding the Docker Engine: %w", err)
	}
	options, err := target.options()
	if err != nil {
		return nil, fmt.Errorf("connecting to the Docker Engine at %s: %w", target, err)
	}
	c, err := client.NewClientWithOpts(append(options, client.WithAPIVersionNegotiation(), client.WithUserAgent(UserAgent))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the Docker Engine at %s: %w", target, err)
	}
	ping, err := c.Ping(ctx)
	if err != nil {
		_ = c.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("connecting to the Docker Engine at %s: %w; start it, or name another one with DOCKER_HOST", target, err)
	}
	c.NegotiateAPIVersionPing(ping)
	return &Engine{client: c}, nil
}

// Close ends the connection.
func (e *Engine) Close() error { return e.client.Close() }

// Host is the Engine's address, for instance unix:///var/run/docker.sock.
func (e *Engine) Host() string { return e.client.DaemonHost() }

// Version is the Engine's own version, for instance 28.5.2.
func (e *Engine) Version(ctx context.Context) (string, error) {
	version, err := e.client.ServerVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("asking the Docker Engine for its version: %w", err)
	}
	return version.Version, nil
}

// message is one entry of the JSON stream with which the Engine answers a load (docker/docker pkg/jsonmessage).
type message struct {
	Stream      string `json:"stream"`
	ErrorDetail *struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
	Error string `json:"error"`
}

// Load makes the Engine read a docker-archive (an uncompressed tar) from r. Lines that the Engine says about it, for instance
// "Loaded image: app:dev", go to log, which may be nil. An error that the Engine reports in the middle of its answer is returned. When
// ctx ends and r is an io.Closer, it is closed.
func (e *Engine) Load(ctx context.Context, r io.Reader, log func(line string)) error {
	// net/http does not return before a pending read of the body has, however the request ended.
	if closer, ok := r.(io.Closer); ok {
		stop := context.AfterFunc(ctx, func() { _ = closer.Close() })
		defer stop()
	}
	response, err := e.client.ImageLoad(ctx, r)
	if err != nil {
		return fmt.Errorf("loading the image into the Docker Engine: %w", plain(ctx, err))
	}
	defer response.Body.Close()
	if !response.JSON {
		text, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		if err != nil {
			return fmt.Errorf("loading the image into the Docker Engine: %w", plain(ctx, err))
		}
		logLines(log, string(text))
		return nil
	}
	if err := readMessages(response.Body, log); err != nil {
		return fmt.Errorf("loading the image into the Docker Engine: %w", plain(ctx, err))
	}
	return nil
}

// readMessages reads a JSON stream to its end. It fails for the error that the Engine put into the stream and for a stream that is
// cut short.
func readMessages(r io.Reader, log func(line string)) error {
	decoder := json.NewDecoder(r)
	for {
		var m message
		err := decoder.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading the Engine's answer: %w", err)
		case m.ErrorDetail != nil && m.ErrorDetail.Message != "":
			return errors.New(m.ErrorDetail.Message)
		case m.Error != "":
			return errors.New(m.Error)
		}
		logLines(log, m.Stream)
	}
}

func logLines(log func(line string), text string) {
	if log == nil {
		return
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			log(line)
		}
	}
}

// NotFoundError says that the Engine has no such image.
type NotFoundError struct{ Reference string }

// Error implements error.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("the Docker Engine has no image %q; docker images lists what it has", e.Reference)
}

// Save returns the image as the Engine exports it: a docker-archive, with an OCI layout in the same tar since Engine 25. The caller
// must close it. The error is a *NotFoundError when there is no such image.
func (e *Engine) Save(ctx context.Context, reference string) (io.ReadCloser, error) {
	if _, err := e.ImageID(ctx, reference); err != nil {
		return nil, err
	}
	body, err := e.client.ImageSave(ctx, []string{reference})
	if err != nil {
		return nil, fmt.Errorf("saving %q from the Docker Engine: %w", reference, plain(ctx, err))
	}
	return body, nil
}

// Image is what the Engine knows about an image.
type Image struct {
	// ID is the config's digest, or the index's digest with the containerd image store.
	ID digest.Digest
	// Tags are the names it goes by.
	Tags []string
	// OS, Architecture and Variant are its platform.
	OS, Architecture, Variant string
	// Size in bytes as the Engine counts it.
	Size int64
	// Labels are those of its config.
	Labels map[string]string
	// Created is the time in its config, in whole seconds; FindImages alone tells it.
	Created time.Time
}

// Inspect looks the image up. The error is a *NotFoundError when there is no such image, also for what can be no image's name.
func (e *Engine) Inspect(ctx context.Context, name string) (Image, error) {
	// The Engine parses it in the same way, and answers with a status that it has for other requests too.
	if _, err := reference.ParseAnyReference(name); err != nil {
		return Image{}, &NotFoundError{Reference: name}
	}
	found, err := e.client.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return Image{}, &NotFoundError{Reference: name}
	}
	if err != nil {
		return Image{}, fmt.Errorf("looking up %q in the Docker Engine: %w", name, plain(ctx, err))
	}
	image := Image{
		ID: digest.Digest(found.ID), Tags: found.RepoTags,
		OS: found.Os, Architecture: found.Architecture, Variant: found.Variant, Size: found.Size,
	}
	if found.Config != nil {
		image.Labels = found.Config.Labels
	}
	return image, nil
}

// FindImages lists the images whose label has the value, newest first.
func (e *Engine) FindImages(ctx context.Context, label, value string) ([]Image, error) {
	listed, err := e.client.ImageList(ctx, image.ListOptions{Filters: labelFilter(label, value)})
	if err != nil {
		return nil, fmt.Errorf("listing the images of the Docker Engine: %w", plain(ctx, err))
	}
	slices.SortStableFunc(listed, func(a, b image.Summary) int { return cmp.Compare(b.Created, a.Created) })
	var found []Image
	for _, i := range listed {
		found = append(found, Image{ID: digest.Digest(i.ID), Tags: i.RepoTags, Size: i.Size, Labels: i.Labels, Created: time.Unix(i.Created, 0)})
	}
	return found, nil
}

// ImageID returns the digest by which the Engine identifies the image: it changes when the tag moves. The error is a *NotFoundError
// when there is no such image.
func (e *Engine) ImageID(ctx context.Context, reference string) (digest.Digest, error) {
	image, err := e.Inspect(ctx, reference)
	return image.ID, err
}

// Gone says whether err means that no Engine answers: it has ended, or it was never there.
func Gone(err error) bool { return client.IsErrConnectionFailed(err) }

// plain prefers the reason why ctx ended to what the transport made of it, and says whose connection it is that failed.
func plain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if Gone(err) {
		return fmt.Errorf("the Docker Engine does not answer: %w", err)
	}
	return err
}
