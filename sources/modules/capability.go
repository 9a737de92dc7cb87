package modules

import "encoding/binary"

// capabilityRecord is the PAX record in which layers carry the extended attribute security.capability; the prefix is star's and what
// container runtimes read (https://github.com/opencontainers/image-spec/blob/main/layer.md).
const capabilityRecord = "SCHILY.xattr.security.capability"

// The constants of the attribute's format, struct vfs_cap_data in include/uapi/linux/capability.h.
const (
	vfsCapRevision2      = 0x02000000
	vfsCapFlagsEffective = 0x000001
	capNetBindService    = 10
)

// bindServiceCapability is the value of security.capability that "setcap cap_net_bind_service=+ep" writes: revision 2, five
// little-endian words: magic and flags, then permitted and inheritable for the low and the high 32 capabilities.
func bindServiceCapability() []byte {
	b := binary.LittleEndian.AppendUint32(nil, vfsCapRevision2|vfsCapFlagsEffective)
	b = binary.LittleEndian.AppendUint32(b, 1<<capNetBindService)
	return append(b, make([]byte, 3*4)...)
}
