// Command net is what the pods of the network's tests run: with no arguments a server on port 8080 that says who asks, else
//
//	net get URL           prints what the URL answers
//	net write FILE TEXT
//	net read FILE
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return serve()
	}
	switch args[0] {
	case "get":
		return get(args[1])
	case "write":
		return os.WriteFile(args[1], []byte(args[2]), 0o644)
	case "read":
		text, err := os.ReadFile(args[1])
		fmt.Print(string(text))
		return err
	}
	return fmt.Errorf("unknown command %s", args[0])
}

// serve answers with the pod's name and the address of who asks.
func serve() error {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		name, _ := os.Hostname()
		fmt.Fprintln(w, name, host)
	})
	return http.ListenAndServe(":8080", nil)
}

func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
