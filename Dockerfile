# The agent for container images. Control planes copy /execd and /bootstrap.sh out
# of it into the sandbox, some with this image's own sh and cp; run by itself it
# serves on port 44772. execd needs none of that and carries its kernels, but for
# Go's, which lies beside it.

FROM golang:1.24-bookworm AS go
COPY kernels/go /src
RUN cd /src && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o /kernels/go .

FROM debian:12 AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates make
COPY . /src
RUN make -C /src build/execd

FROM busybox:stable-musl
WORKDIR /
COPY --from=build /src/build/execd /execd
COPY --from=go /kernels /kernels
COPY tools/bootstrap.sh /bootstrap.sh
EXPOSE 44772
ENTRYPOINT ["/execd", "--init"]
