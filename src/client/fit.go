package client

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/config"
)

// leastMemory is as little as [main] memory can be.
const leastMemory = 16 << 20

// fit returns cfg with no more memory than a control group, or the machine, leaves this
// process, which is killed beyond that, and crawls before: half of the limit is for Go,
// for the keeper and for pages of the disk cache. It is told unless that much was used
// already.
func fit(cfg *config.Client, used int64, log *slog.Logger) *config.Client {
	limit, msg := machineMemory(), "less memory is used than configured: the machine has too little; set [main] memory to less"
	if group, ok := groupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); ok && (limit == 0 || group < limit) {
		limit, msg = group, "less memory is used than configured: the control group has too little; raise its limit, or set [main] memory to less"
	}
	if limit == 0 || cfg.Main.Memory <= max(limit/2, leastMemory) {
		return cfg
	}
	fitted := *cfg
	fitted.Main.Memory = max(limit/2, leastMemory)
	if fitted.Main.Memory == used {
		return &fitted
	}
	log.Warn(msg, "op", "config", "memory", cfg.Main.Memory, "used", fitted.Main.Memory, "limit", limit)
	return &fitted
}

// machineMemory is how much memory the machine has, in bytes; 0 where that can't be told.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// groupLimit is how much memory the control groups of a process may take, in bytes, by
// cgroups(7); false where there is no limit. membership is /proc/PID/cgroup.
func groupLimit(membership, root string) (int64, bool) {
	b, err := os.ReadFile(membership)
	if err != nil {
		return 0, false
	}
	least := int64(0)
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		top, name := root, "memory.max"
		switch {
		case f[1] == "":
		case strings.Contains(","+f[1]+",", ",memory,"):
			top, name = filepath.Join(root, "memory"), "memory.limit_in_bytes"
		default:
			continue
		}
		// Each group limits those in it. What a container can't see it is not told of,
		// and its own group is then the topmost.
		for at := filepath.Join(top, f[2]); ; at = filepath.Dir(at) {
			if v, err := os.ReadFile(filepath.Join(at, name)); err == nil {
				n, err := strconv.ParseInt(strings.TrimSpace(string(v)), 10, 64)
				if err == nil && n > 0 && n < 1<<60 && (least == 0 || n < least) {
					least = n
				}
			}
			if len(at) <= len(top) {
				break
			}
		}
	}
	return least, least > 0
}
