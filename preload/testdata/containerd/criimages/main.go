// Command criimages prints what the CRI plugin of a containerd says about images, as the kubelet asks it: one line per image with id,
// whether it is pinned, tags and digests. With names, it prints the id of the image that each of them finds, or "none".
// usage: criimages SOCKET [NAME...]
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
	service := runtime.NewImageServiceClient(connection)
	if len(os.Args) > 2 {
		for _, name := range os.Args[2:] {
			answer, err := service.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}}, grpc.WaitForReady(true))
			if err != nil {
				log.Fatal(err)
			}
			id := "none"
			if answer.Image != nil {
				id = answer.Image.Id
			}
			fmt.Println(id)
		}
		return
	}
	answer, err := service.ListImages(ctx, &runtime.ListImagesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	for _, image := range answer.Images {
		fmt.Println(image.Id, image.Pinned, strings.Join(image.RepoTags, ","), strings.Join(image.RepoDigests, ","))
	}
}
