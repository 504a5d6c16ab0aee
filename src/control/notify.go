package control

import (
	"net"
	"os"
)

// Notify tells the service manager, where there is one that wants to know, how
// the daemon is doing: sd_notify(3). READY=1 says that it is up.
func Notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state + "\n"))
	return err
}
