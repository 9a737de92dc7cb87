package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

const (
	// requestRetries is how often a request is repeated after a refused connection, 429 or 5xx.
	requestRetries = 4
	// longestWait is the longest Retry-After that is honoured by waiting; a longer one ends the download.
	longestWait = 2 * time.Minute
	// idleTimeout is how long a server may send nothing before the connection counts as cut.
	idleTimeout = time.Minute
	// userAgent names us to servers, some of which refuse requests without one.
	userAgent = "nodeimg"
)

// Client downloads into a cache. Cache must be set; the zero value of everything else works. Its methods are safe for concurrent use;
// it must not be copied after its first use.
type Client struct {
	// Cache receives the blobs.
	Cache *cache.Cache
	// Mirrors redirects a host (a key, with its port if the URL has one) to a URL prefix: the value, then the URL's path and query.
	Mirrors map[string]string
	// Roots are the certificate authorities to trust; nil means the system's.
	Roots *x509.CertPool
	// Transport makes the requests, for instance one that authorises them at a registry; nil means one that trusts Roots.
	Transport http.RoundTripper
	// RetryWait is the wait before the first retry, doubled for each further one; 0 means half a second.
	RetryWait time.Duration

	once sync.Once
	http *retryablehttp.Client
}

// StatusError says that a server answered, but not with what was asked for. URL holds neither credentials nor query.
type StatusError struct {
	URL  string
	Code int
	// RetryAfter is how long the server asked to wait, 0 if it did not.
	RetryAfter time.Duration
}

// Error implements error.
func (e *StatusError) Error() string {
	var advice string
	switch {
	case e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden:
		advice = "the server refuses access; check that it may be used from here, or redirect its host with the recipe's mirrors"
	case e.Code == http.StatusProxyAuthRequired:
		advice = "the proxy asks for credentials; put them into HTTPS_PROXY"
	case e.Code == http.StatusNotFound || e.Code == http.StatusGone:
		advice = "the server does not have it; check the version, or redirect its host with the recipe's mirrors"
	case e.Code == http.StatusTooManyRequests && e.RetryAfter > 0:
		advice = fmt.Sprintf("the server limits requests and asks to wait %s; run again then, or use a mirror", e.RetryAfter)
	case e.Code == http.StatusTooManyRequests:
		advice = "the server limits requests; wait and run again, or use a mirror"
	case e.Code >= 500:
		advice = "the server fails; run again later (what was downloaded so far is kept), or use a mirror"
	default:
		advice = "this is not an answer that can be used; check the mirrors of the recipe"
	}
	return fmt.Sprintf("%s: %d %s: %s", e.URL, e.Code, http.StatusText(e.Code), advice)
}

// Redact returns rawURL without user name, password, query and fragment, as it may appear in errors and locks.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(malformed URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Opaque: u.Opaque, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// Rewrite applies the mirrors to rawURL and returns the URL that is really asked. The credentials in a mirror's URL are used for
// whatever lies on that mirror's host. It fails for anything that is not http or https.
func (c *Client) Rewrite(rawURL string) (string, error) {
	u, err := parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("reading URL: %w", err)
	}
	mirror, ok := c.Mirrors[u.Host]
	if !ok {
		if u.User == nil {
			u.User = c.credentials(u)
		}
		return u.String(), nil
	}
	to, err := parse(mirror)
	if err != nil {
		return "", fmt.Errorf("reading the mirror of %s: %w", u.Host, err)
	}
	to.Path, to.RawPath = strings.TrimRight(to.Path, "/")+u.Path, ""
	to.RawQuery = u.RawQuery
	return to.String(), nil
}

// credentials returns those that a mirror with the scheme and host of u names: locks hold mirrors' URLs without them.
func (c *Client) credentials(u *url.URL) *url.Userinfo {
	for _, key := range slices.Sorted(maps.Keys(c.Mirrors)) {
		mirror, err := url.Parse(c.Mirrors[key])
		if err == nil && mirror.User != nil && mirror.Host == u.Host && mirror.Scheme == u.Scheme {
			return mirror.User
		}
	}
	return nil
}

func parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error repeats the input, and with it a password.
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("malformed: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%q is not an http or https URL", Redact(rawURL))
	}
	return u, nil
}

// Text downloads a small text of at most limit bytes, for instance a published sha256. It is not cached.
func (c *Client) Text(ctx context.Context, rawURL string, limit int64) (string, error) {
	target, err := c.Rewrite(rawURL)
	if err != nil {
		return "", err
	}
	var failure error
	for attempt := range requestRetries {
		if attempt > 0 {
			if err := Wait(ctx, c.retryWait()<<attempt); err != nil {
				return "", fmt.Errorf("fetching %s: %w", Redact(target), err)
			}
		}
		var text string
		var again bool
		if text, again, failure = c.text(ctx, target, limit); failure == nil || !again {
			return text, failure
		}
	}
	return "", failure
}

// text makes one attempt; again says that the body broke off, so that another may succeed.
func (c *Client) text(ctx context.Context, target string, limit int64) (text string, again bool, err error) {
	response, err := c.get(ctx, target, 0)
	if err != nil {
		return "", false, fmt.Errorf("fetching %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", false, fmt.Errorf("fetching %w", statusError(target, response))
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return "", ctx.Err() == nil, fmt.Errorf("fetching %s: %w", Redact(target), plain(ctx, err))
	}
	if int64(len(body)) > limit {
		return "", false, fmt.Errorf("fetching %s: longer than the %d bytes expected; is this the right server?", Redact(target), limit)
	}
	return string(body), false, nil
}

// get asks for target from offset on, with retries. The body ends with an error when the server falls silent. Errors begin with the URL.
func (c *Client) get(ctx context.Context, target string, offset int64) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: %w", Redact(target), plain(ctx, err))
	}
	request.Header.Set("User-Agent", userAgent)
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := c.client().Do(request)
	if err != nil {
		err = plain(ctx, err)
		cancel(nil)
		return nil, fmt.Errorf("%s: %w", Redact(target), err)
	}
	body := &watchedBody{ReadCloser: response.Body, cancel: cancel}
	body.timer = time.AfterFunc(idleTimeout, func() { cancel(errIdle) })
	response.Body = body
	return response, nil
}

var errIdle = fmt.Errorf("the server sent nothing for %s", idleTimeout)

// watchedBody cancels its request when no byte arrives for idleTimeout.
type watchedBody struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(idleTimeout)
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

func (c *Client) retryWait() time.Duration { return cmp.Or(c.RetryWait, 500*time.Millisecond) }

func (c *Client) client() *retryablehttp.Client {
	c.once.Do(func() {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		// A body that the transport decompressed would have neither the digest nor the offsets that were asked for.
		transport.DisableCompression = true
		transport.ResponseHeaderTimeout = idleTimeout
		transport.MaxIdleConnsPerHost = 8
		if c.Roots != nil {
			transport.TLSClientConfig = &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12}
		}
		client := retryablehttp.NewClient()
		client.HTTPClient = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
		if c.Transport != nil {
			client.HTTPClient.Transport = c.Transport
		}
		client.Logger = nil
		client.RetryMax = requestRetries
		client.RetryWaitMin = c.retryWait()
		client.RetryWaitMax = 30 * time.Second
		client.CheckRetry = checkRetry
		client.ErrorHandler = retryablehttp.PassthroughErrorHandler
		c.http = client
	})
	return c.http
}

func checkRedirect(request *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	// A published digest is only worth something when it arrives as securely as it was asked for.
	if via[0].URL.Scheme == "https" && request.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s on %s", request.URL.Scheme, request.URL.Host)
	}
	return nil
}

func checkRetry(ctx context.Context, response *http.Response, err error) (bool, error) {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return false, err
	}
	if response != nil && retryAfter(response) > longestWait {
		return false, nil
	}
	again, policyErr := retryablehttp.DefaultRetryPolicy(ctx, response, err)
	if ctx.Err() != nil {
		return false, policyErr
	}
	return again, nil
}

func retryAfter(response *http.Response) time.Duration {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	header := response.Header.Get("Retry-After")
	if seconds, err := time.ParseDuration(header + "s"); err == nil && header != "" {
		return seconds
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, time.Until(at).Round(time.Second))
	}
	return 0
}

func statusError(target string, response *http.Response) *StatusError {
	return &StatusError{URL: Redact(target), Code: response.StatusCode, RetryAfter: retryAfter(response)}
}

// plain takes the URL out of an error of net/http, because that one may hold a password, and prefers the reason why ctx ended.
func plain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the server closed the connection without an answer (%w); try again, or set a mirror of it in the recipe", err)
	}
	return err
}

// Wait waits for d, or until ctx ends; then it returns the reason.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

type stepKey struct{}

// WithStep returns a context in which Blob counts its bytes on step instead of showing a step of its own; the caller owns step.
func WithStep(ctx context.Context, step *progress.Step) context.Context {
	return context.WithValue(ctx, stepKey{}, step)
}

// startStep returns the step to count on and how to end it.
func startStep(ctx context.Context, target string, size int64) (*progress.Step, func(error) error) {
	if step, ok := ctx.Value(stepKey{}).(*progress.Step); ok {
		return step, func(err error) error { return err }
	}
	step := progress.Start(ctx, "[fetch] %s", path.Base(Redact(target)))
	if size > 0 {
		step.Total(size)
	}
	return step, step.Done
}
