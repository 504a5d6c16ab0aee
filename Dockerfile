# A few MB: the static binaries and nothing else.
#
#   make build && docker build -t aysfs .
#
# As client; the tree appears on the host where the mount is shared (mount --make-rshared /opt/apps):
#   docker run -d --device /dev/fuse --cap-drop ALL --cap-add SYS_ADMIN --security-opt no-new-privileges \
#     -v /etc/aysfs:/etc/aysfs:ro -v /var/cache/aysfs:/var/cache/aysfs -v /opt/apps:/opt/apps:rshared aysfs
#
# As cache, without any right:
#   docker run -d --read-only --user 65534:65534 --cap-drop ALL -p 8080:8080 --no-healthcheck \
#     -v ays_cache:/var/lib/ays_cache --tmpfs /run/aysfs:uid=65534 --entrypoint /usr/sbin/ays_cache aysfs
FROM scratch
ARG BIN=bin
COPY $BIN/aysfs $BIN/ays_cache /usr/sbin/
COPY $BIN/ays /usr/bin/
COPY rootfs/etc/aysfs /etc/aysfs
HEALTHCHECK --interval=30s --timeout=15s --start-period=1m CMD ["/usr/bin/ays", "status"]
ENTRYPOINT ["/usr/sbin/aysfs"]
