package recipes

import (
	"path/filepath"
	"runtime"
	"strings"
)

// The runtimes that recipes get when they name no version: the newest that nodeimg was tested with.
const (
	DefaultContainerdVersion = "2.4.2"
	DefaultDockerVersion     = "28.5.2"
	DefaultCRIOVersion       = "1.36.3"
	// ReleasedDockerVersion is the default with kubernetes.source release: Docker publishes no checksums, and this is the newest version
	// whose checksums nodeimg knows.
	ReleasedDockerVersion = "28.0.4"
)

var defaultRuntimeVersions = map[CRIName]string{
	CRIContainerd: DefaultContainerdVersion, CRIDocker: DefaultDockerVersion, CRICRIO: DefaultCRIOVersion,
}

// DefaultMaxLayers is the number of layers that a node image has at most: some registries and storage drivers refuse more than about a
// hundred (overlay2 stops at 128).
const DefaultMaxLayers = 99

// HostPlatform is the platform that recipes get when they name none: linux on the host's own architecture.
func HostPlatform() string { return "linux/" + runtime.GOARCH }

// Default fills in what the recipe leaves open and brings what it says into its normal form: image references become full names,
// host paths lose their detours, file modes get four digits. What is invalid stays as it is; Validate reports it.
//
//	spec.kubernetes.source     release
//	spec.base.distro           debian
//	spec.base.release          12 for debian, 24.04 for ubuntu
//	spec.base.from             image
//	spec.base.image            the distribution's official image (only with from: image)
//	spec.cri.name              containerd
//	spec.cri.version           DefaultContainerdVersion, DefaultDockerVersion (ReleasedDockerVersion with source release) or
//	                           DefaultCRIOVersion
//	spec.cni.name              flannel
//	spec.storage.name          local-path
//	spec.preload.controlPlane  true
//	spec.preload.engine        auto
//	spec.preload.layout        unpacked with engine direct, packed with engine inner
//	spec.preload.maxLayers     DefaultMaxLayers
//	spec.platforms             HostPlatform
//
// Default changes nothing in a recipe that it was called on before.
func (r *Recipe) Default() {
	s := &r.Spec
	setDefault(&s.Kubernetes.Source, SourceRelease)
	setDefault(&s.Base.Distro, "debian")
	if distro, ok := FindDistro(s.Base.Distro, ""); ok {
		setDefault(&s.Base.Release, distro.Release)
	}
	setDefault(&s.Base.From, FromImage)
	if distro, ok := FindDistro(s.Base.Distro, s.Base.Release); ok && s.Base.From == FromImage {
		setDefault(&s.Base.Image, distro.Image)
	}
	setDefault(&s.CRI.Name, CRIContainerd)
	if s.CRI.Name == CRIDocker && s.Kubernetes.Source == SourceRelease {
		setDefault(&s.CRI.Version, ReleasedDockerVersion)
	}
	setDefault(&s.CRI.Version, defaultRuntimeVersions[s.CRI.Name])
	setDefault(&s.CNI.Name, CNIFlannel)
	setDefault(&s.Storage.Name, StorageLocalPath)
	if s.Preload.ControlPlane == nil {
		s.Preload.ControlPlane = new(true)
	}
	setDefault(&s.Preload.Engine, EngineAuto)
	setDefault(&s.Preload.Layout, s.defaultLayout())
	if s.Preload.MaxLayers == 0 {
		s.Preload.MaxLayers = DefaultMaxLayers
	}
	if len(s.Platforms) == 0 {
		s.Platforms = []string{HostPlatform()}
	}
	s.normalize()
}

// defaultLayout keeps what an engine makes by itself.
func (s *Spec) defaultLayout() Layout {
	if s.EngineUsed() == EngineInner {
		return LayoutPacked
	}
	return LayoutUnpacked
}

// EngineUsed is the engine that fills the node: the one that the recipe names or, for auto, direct.
func (s *Spec) EngineUsed() Engine {
	if s.Preload.Engine != EngineAuto && s.Preload.Engine != "" {
		return s.Preload.Engine
	}
	return EngineDirect
}

// Containerd is the version of containerd in the node, without a leading v: the recipe's own, the default one below the Docker Engine,
// and empty where there is none.
func (c CRI) Containerd() string {
	switch c.Name {
	case CRIContainerd:
		return c.Version
	case CRIDocker:
		return DefaultContainerdVersion
	default:
		return ""
	}
}

func setDefault[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

// normalize gives equal meanings equal spellings, so that they get equal digests.
func (s *Spec) normalize() {
	normalizeReference(&s.Base.Image)
	for i := range s.Preload.Images {
		image := &s.Preload.Images[i]
		normalizeReference(&image.Registry)
		normalizeReference(&image.Docker)
		normalizeReference(&image.Name)
		normalizePath(&image.Archive)
		normalizePath(&image.Layout)
	}
	for i := range s.Files {
		normalizePath(&s.Files[i].Source)
		if mode := &s.Files[i].Mode; len(*mode) == 3 && fileMode.MatchString(*mode) {
			*mode = "0" + *mode
		}
	}
	for i := range s.CACertificates {
		normalizePath(&s.CACertificates[i])
	}
	for host, prefix := range s.Mirrors {
		s.Mirrors[host] = strings.TrimRight(prefix, "/")
	}
}

func normalizeReference(field *string) {
	if full, err := NormalizeReference(*field); err == nil {
		*field = full
	}
}

func normalizePath(field *string) {
	if *field != "" {
		*field = filepath.Clean(*field)
	}
}
