// Package dockerengine talks to a Docker Engine: it loads, saves and looks up images. It is the only package that imports
// github.com/docker/docker, so that the move to github.com/moby/moby/client is one package (design §2). The Engine is found as the
// docker command finds it: DOCKER_HOST, then the current docker context, then the default socket.
package dockerengine
