// Package link puts a network of a given round trip and rate between network
// namespaces, where the kernel has none to offer: packets go by way of two tun
// devices and wait in this process as long as a wire would take. It needs root
// and /dev/net/tun.
package link
