// Package fetch downloads over HTTP into the content-addressed cache: blobs whose digest is known, and small texts that say one.
// Downloads are retried, resumed where they broke off (by the next process too) and verified; nothing that fails its digest is kept.
// The recipe's mirrors redirect hosts here, and no error names a credential.
package fetch
