// Package routing has here what stands in for kube-router's use of Amazon's
// interfaces, see the Dockerfile.
package routing

import (
	"strings"

	"k8s.io/klog/v2"

	v1core "k8s.io/api/core/v1"
)

// disableSourceDestinationCheck says what would have to be done on machines of
// Amazon's: by default they drop what comes from a pod or goes to one.
func (nrc *NetworkRoutingController) disableSourceDestinationCheck() {
	for _, obj := range nrc.nodeLister.List() {
		if node := obj.(*v1core.Node); strings.HasPrefix(node.Spec.ProviderID, "aws") {
			klog.Errorf("%s is a machine of AWS, which this build of kube-router does not know: "+
				"disable its check of source and destination by hand", node.Name)
		}
	}
}
