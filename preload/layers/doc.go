// Package layers writes the layers of a node image that hold preloaded images: their blobs as an OCI image layout and, where wanted, the
// trees of package trees beside it. What a layer holds depends on the preloaded image alone, so that the same image gives the same layer
// in every node image, as long as the budget of layers allows.
package layers
