package publish

import (
	"context"
	"net"
	"net/http"
)

// redirecting connects to address whatever host is asked for.
func redirecting(address string) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return transport
}
