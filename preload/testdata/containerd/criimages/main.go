// Command criimages prints what the CRI plugin of a containerd says about images, as the kubelet asks it: one line per image with id,
// whether it is pinned, tags and digests.
// usage: criimages SOCKET
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	answer, err := runtime.NewImageServiceClient(connection).ListImages(ctx, &runtime.ListImagesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	for _, image := range answer.Images {
		fmt.Println(image.Id, image.Pinned, strings.Join(image.RepoTags, ","), strings.Join(image.RepoDigests, ","))
	}
}
