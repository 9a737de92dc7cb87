package main

import (
	"fmt"
	"slices"
	"strings"
)

// entitlementInsecure lets steps that ask for it ("RUN --security=insecure") run with every privilege.
const entitlementInsecure = "security.insecure"

// allowed are the entitlements that --allow has granted. BuildKit knows more of them, but no step of nodeimg's asks for those.
type allowed []string

// String is the flag's value in usage texts.
func (a *allowed) String() string { return strings.Join(*a, ",") }

// Type is the kind of value in usage texts.
func (*allowed) Type() string { return "entitlement" }

// Set adds an entitlement.
func (a *allowed) Set(text string) error {
	if text != entitlementInsecure {
		return fmt.Errorf("expected %s", entitlementInsecure)
	}
	if !slices.Contains(*a, text) {
		*a = append(*a, text)
	}
	return nil
}
