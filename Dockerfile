# A few MB: the three static binaries and nothing else. `make image` builds it from dist/.
#
# As client (the tree appears on the host where the mount is shared):
#   docker run -d --device /dev/fuse --cap-drop ALL --cap-add SYS_ADMIN \
#     -v /etc/aysfs:/etc/aysfs:ro -v /var/cache/aysfs:/var/cache/aysfs -v /opt/apps:/opt/apps:rshared aysfs
# As cache, without any right:
#   docker run -d --read-only --user 65534:65534 --cap-drop ALL -p 8080:8080 \
#     -v ays_cache:/var/lib/ays_cache --tmpfs /run/aysfs:uid=65534 --entrypoint /usr/sbin/ays_cache aysfs
FROM scratch
ARG TARGETPLATFORM=.
COPY $TARGETPLATFORM/aysfs $TARGETPLATFORM/ays_cache /usr/sbin/
COPY $TARGETPLATFORM/ays /usr/bin/
COPY rootfs/etc/aysfs /etc/aysfs
HEALTHCHECK --interval=30s --timeout=15s --start-period=1m CMD ["/usr/bin/ays", "status", "-quiet"]
ENTRYPOINT ["/usr/sbin/aysfs"]
