// Package stock runs the tools that people already have on a node image of nodeimg's: docker run and kubeadm by hand, stock kind, the
// steps of kindbox, and kubectl from outside. All of its tests share one Engine and one image, in a network namespace of their own without a
// way out. Its benchmark compares clusters of nodeimg up with those of stock kind and kind's own sort of image.
package stock
