// Command kubeadm is upstream's, compiled from its unchanged packages, with the defaults of the node image that it lies in. Upstream's
// own defaults are constants: the tags of etcd and CoreDNS that upstream packs, the newest version on the network, a pause image, limits
// of the host's connection tracking, which no container may change, and a disk of the node's own. What a configuration or a flag says still holds. The
// folder's name keeps this file out of nodeimg's own build, which does not depend on Kubernetes.
package main

import (
	"reflect"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-base/version"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubeadm/app"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/scheme"
	"k8s.io/kubernetes/cmd/kubeadm/app/componentconfigs"
	utilerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
)

// The tags of the image's own etcd and CoreDNS, set by the linker.
var etcdTag, dnsTag string

// repository is where kubeadm looks for images unless told otherwise; the tags are those of images there.
const repository = "registry.k8s.io"

// kubeProxyConfiguration leaves connection tracking as it is, unless a configuration says something of kube-proxy.
const kubeProxyConfiguration = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {maxPerCore: 0, min: 0}
`

// kubeletConfiguration is what dockerfiles/node/templates/kubeadm.yaml.tmpl says of the disk, unless a configuration says something of the
// kubelet: it is the host's, whose fill level is no reason to evict pods or to collect images.
const kubeletConfiguration = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
imageGCHighThresholdPercent: 100
evictionHard: {imagefs.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%"}
`

func main() {
	upstream := runtime.NewScheme()
	scheme.AddToScheme(upstream)
	// By reflection, because the versions of kubeadm's configuration come and go; the fields are in all of them.
	for kind, goType := range upstream.AllKnownTypes() {
		if kind.Group != kubeadm.GroupName || kind.Version == runtime.APIVersionInternal {
			continue
		}
		object := reflect.New(goType).Interface().(runtime.Object)
		switch kind.Kind {
		case "ClusterConfiguration":
			scheme.Scheme.AddTypeDefaultingFunc(object, func(in any) { clusterDefaults(upstream, in.(runtime.Object)) })
			if err := scheme.Scheme.AddConversionFunc(object, (*kubeadm.ClusterConfiguration)(nil), func(in, out any, _ conversion.Scope) error {
				if err := upstream.Convert(in, out, nil); err != nil {
					return err
				}
				return componentconfigs.FetchFromDocumentMap(out.(*kubeadm.ClusterConfiguration), kubeadm.DocumentMap{
					kubeproxy.SchemeGroupVersion.WithKind("KubeProxyConfiguration"): []byte(kubeProxyConfiguration),
					kubelet.SchemeGroupVersion.WithKind("KubeletConfiguration"):     []byte(kubeletConfiguration),
				})
			}); err != nil {
				utilerrors.HandleError(err)
			}
		case "InitConfiguration", "JoinConfiguration":
			scheme.Scheme.AddTypeDefaultingFunc(object, func(in any) {
				// All images are in the node. Whatever a configuration adds, the kubelet pulls.
				setDefault(reflect.ValueOf(in).Elem().FieldByName("NodeRegistration").FieldByName("ImagePullPolicy"), "Never")
				upstream.Default(in.(runtime.Object))
			})
		}
	}
	utilerrors.HandleError(app.Run())
}

// clusterDefaults fills in a ClusterConfiguration of any version.
func clusterDefaults(upstream *runtime.Scheme, object runtime.Object) {
	configuration := reflect.ValueOf(object).Elem()
	setDefault(configuration.FieldByName("KubernetesVersion"), version.Get().GitVersion)
	upstream.Default(object)
	if configuration.FieldByName("ImageRepository").String() != repository {
		return
	}
	images := map[string]reflect.Value{dnsTag: configuration.FieldByName("DNS")}
	if local := configuration.FieldByName("Etcd").FieldByName("Local"); !local.IsNil() {
		images[etcdTag] = local.Elem()
	}
	for tag, image := range images {
		if image.FieldByName("ImageRepository").String() == "" {
			setDefault(image.FieldByName("ImageTag"), tag)
		}
	}
}

func setDefault(field reflect.Value, value string) {
	if field.String() == "" {
		field.SetString(value)
	}
}
