package publish

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// PushError says that a registry did not take an image.
type PushError struct {
	// Reference is the name that was pushed to.
	Reference string
	// Code is the HTTP status of the registry's answer, 0 when there was none.
	Code int
	// Advice is what to try.
	Advice string
	cause  error
}

// Error implements error. It holds no credentials and no signed URLs.
func (e *PushError) Error() string {
	message := fmt.Sprintf("pushing %s: %s", e.Reference, redact(e.cause))
	if e.Advice != "" {
		message += "; " + e.Advice
	}
	return message
}

// Unwrap returns what the registry client said.
func (e *PushError) Unwrap() error { return e.cause }

func pushError(ctx context.Context, t target, tag string, err error) error {
	ref := t.name + ":" + tag
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("pushing %s: %w", ref, cause)
	}
	e := &PushError{Reference: ref, cause: err}
	host := t.repository.RegistryStr()
	var refused *transport.Error
	var authority x509.UnknownAuthorityError
	var network *net.OpError
	switch {
	case errors.As(err, &refused):
		e.Code = refused.StatusCode
		e.Advice = statusAdvice(refused.StatusCode, host)
	case errors.As(err, &authority):
		e.Advice = "the registry's certificate is not trusted here; add its authority to the system's certificates or to SSL_CERT_FILE"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Advice = fmt.Sprintf("the registry speaks plain http; allow that with --insecure-registry %s", host)
	case errors.As(err, &network):
		e.Advice = fmt.Sprintf("check that %s is up and reachable from here", host)
	}
	return e
}

func statusAdvice(code int, host string) string {
	switch {
	case code == http.StatusUnauthorized:
		return fmt.Sprintf("log in with docker login %s or podman login %s", host, host)
	case code == http.StatusForbidden:
		return "these credentials may not push there; use others or another repository"
	case code == http.StatusNotFound:
		return "the registry does not know this repository; create it first, or check the name"
	case code == http.StatusMethodNotAllowed:
		return "the registry is read-only, a mirror for instance; name another one"
	case code == http.StatusRequestEntityTooLarge:
		return "the registry, or a proxy before it, limits the size of uploads"
	case code == http.StatusTooManyRequests:
		return "the registry limits requests; wait and run again, blobs that arrived are not sent again"
	case code >= http.StatusInternalServerError:
		return "the registry fails; run again later, blobs that arrived are not sent again"
	default:
		return ""
	}
}

// passing reports whether the same request may succeed when it is made again.
func passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	for _, cut := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, net.ErrClosed} {
		if errors.Is(err, cut) {
			return true
		}
	}
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// redact renders an error without the query and the user of any URL in it, where upload locations carry signatures.
func redact(err error) string {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err.Error()
	}
	u, parseErr := url.Parse(failed.URL)
	if parseErr != nil {
		return failed.Err.Error()
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return fmt.Sprintf("%s %s: %v", failed.Op, u, failed.Err)
}
