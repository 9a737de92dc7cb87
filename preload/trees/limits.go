package trees

// Limits of what an image may ask for. What is beyond them is refused (*HostileError), except where a comment says that it stays packed.
const (
	// MaxLayers of an image: overlayfs mounts no more (OVL_MAX_STACK in the kernel's fs/overlayfs/params.c).
	MaxLayers = 500
	// MaxLayerSize in bytes bounds an uncompressed layer, and what its files come to when they are written out. The largest layers in
	// use hold models of some tens of gigabytes.
	MaxLayerSize = 256 << 30
	// FreeLayerSize in bytes is what a layer may come to however well it is compressed: a disk image that is mostly zeros is no attack.
	FreeLayerSize = 16 << 30
	// MaxExpansion bounds how many times larger than its blob a layer beyond FreeLayerSize may be. Programs and text come to 10 at most.
	MaxExpansion = 200
	// MaxLayerEntries bounds the entries of one layer; the largest images in use have some hundred thousand files.
	MaxLayerEntries = 4 << 20

	// MaxNodes bounds the files and directories of an image that is unpacked, because they are held in memory. Images beyond it stay
	// packed.
	MaxNodes = 600_000
	// MaxNames in bytes bounds names, link targets and extended attributes of an image, for the same reason. Images beyond it stay packed.
	MaxNames = 128 << 20
	// MaxPath in bytes bounds the path of a file in the image. Linux takes 4095 (PATH_MAX), of which the folder of the tree and whatever
	// folder the host unpacks the node image in need some. Images beyond it stay packed.
	MaxPath = 4095 - 384
	// MaxXattrs in bytes bounds the extended attributes of one file: ext4 keeps them in one block of 4 KiB. Images beyond it stay packed.
	MaxXattrs = 3840
	// MaxZstdWindow in bytes is what the zstd command takes too when not told otherwise. Images beyond it stay packed.
	MaxZstdWindow = 128 << 20

	// maxName and maxLinkTarget are Linux's NAME_MAX and PATH_MAX without the final zero.
	maxName, maxLinkTarget = 255, 4095
	// maxHardLinks is ext4's EXT4_LINK_MAX.
	maxHardLinks = 65000
	// maxSteps bounds the work of following the paths of an image's entries, which symbolic links can make as long as they like; real
	// images need some tens per entry.
	maxSteps = 64 << 20
)

// maxSize is how many bytes a blob of the size may come to when it is decompressed.
func maxSize(blob int64) int64 {
	if blob > MaxLayerSize/MaxExpansion {
		return MaxLayerSize
	}
	return max(FreeLayerSize, blob*MaxExpansion)
}
