// Package archive makes tars and image layers of a few files in memory.
package archive
