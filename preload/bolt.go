package preload

import (
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// boltOptions make a database whose bytes depend on nothing but what is written: the build host's page size must not show (bolt reads
// any), and the array is the freelist that allocates pages in the same order every time.
var boltOptions = bolt.Options{PageSize: 4096, FreelistType: bolt.FreelistArrayType, NoSync: true}

func openBolt(path string) (*bolt.DB, error) {
	options := boltOptions
	return bolt.Open(path, 0o600, &options)
}

// fixTimes sets every created and updated time in the database.
func fixTimes(db *bolt.DB, epoch time.Time) error {
	stamp, err := epoch.UTC().MarshalBinary()
	if err != nil {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return fixBucket(b, stamp) })
	})
}

func fixBucket(b *bolt.Bucket, stamp []byte) error {
	var times, buckets [][]byte
	err := b.ForEach(func(k, v []byte) error {
		switch {
		case v == nil && string(k) != "labels":
			buckets = append(buckets, k)
		case v != nil && (string(k) == "createdat" || string(k) == "updatedat"):
			times = append(times, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range times {
		if err := b.Put(append([]byte{}, k...), stamp); err != nil {
			return err
		}
	}
	for _, k := range buckets {
		if err := fixBucket(b.Bucket(k), stamp); err != nil {
			return err
		}
	}
	return nil
}

// compact copies the database in key order into a new file, so that its history leaves no trace. One transaction per key: within one,
// bolt places changed buckets in the random order of a Go map.
func compact(db *bolt.DB, path string) ([]byte, error) {
	target, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if err := bolt.Compact(target, db, 1); err != nil {
		return nil, err
	}
	var used int64
	if err := target.View(func(tx *bolt.Tx) error {
		used = tx.Size()
		return nil
	}); err != nil {
		return nil, err
	}
	if err := target.Close(); err != nil {
		return nil, err
	}
	// Bolt doubles its files in advance and does so again when it needs more.
	b, err := os.ReadFile(path)
	return b[:min(used, int64(len(b)))], err
}
