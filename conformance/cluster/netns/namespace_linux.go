package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// variable is set in a program that Run has started ("run"), and in one that Probe has
// started ("probe"). The server takes no variables that begin with PULSEGATE_ besides its
// settings.
const variable = "CONFORMANCE_NETNS"

// Inside reports whether this program may use New.
func Inside() bool { return os.Getenv(variable) == "run" }

// Init must be called first by a program that uses Probe. It does not return if Probe
// has started the program.
func Init() {
	if os.Getenv(variable) != "probe" {
		return
	}
	if err := try(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Probe returns nil if Run can start this program in namespaces of its own, and else
// the reason why it cannot.
func Probe() error {
	c := command("probe")
	out, err := c.Output()
	if err == nil {
		return nil
	}
	if reason := strings.TrimSpace(string(out)); reason != "" {
		return errors.New(reason)
	}
	return fmt.Errorf("namespaces: %w", err)
}

// Run runs this program again with the same arguments, in a user namespace and a
// network namespace of its own, in which it may make others. It returns its exit code.
func Run() (int, error) {
	runtime.LockOSThread() // the signal at the death of the parent is that of its thread
	defer runtime.UnlockOSThread()
	c := command("run")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return failed.ExitCode(), nil
	}
	return 0, err
}

// command returns the command that runs this program in namespaces, as the user that
// has all rights there.
func command(mode string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), variable+"="+mode)
	one := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
		UidMappings: one(os.Getuid()), GidMappings: one(os.Getgid())}
	return c
}

// try makes two namespaces and connects from one to the other.
func try() (err error) {
	n, err := New(1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	var spaces []*Namespace
	for _, addr := range []string{"10.77.0.1", "10.77.0.2"} {
		space, err := n.Add(netip.MustParseAddr(addr))
		if err != nil {
			return err
		}
		spaces = append(spaces, space)
	}
	var l net.Listener
	if err := spaces[0].Do(func() (err error) { l, err = net.Listen("tcp4", "10.77.0.1:80"); return err }); err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	c, err := spaces[1].Dial("10.77.0.1:80", 10*time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// Network is a set of network namespaces and the switch between them.
type Network struct {
	*Switch
	home   *os.File // the namespace of this process
	spaces []*Namespace
}

// Namespace is a network namespace. Its only interface besides the loopback interface
// leads to the switch.
type Namespace struct {
	Addr netip.Addr
	home *os.File
	file *os.File // keeps the namespace alive
}

// New returns a network without namespaces.
func New(seed uint64) (*Network, error) {
	home, err := current()
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	return &Network{Switch: NewSwitch(seed), home: home}, nil
}

// current opens the namespace of the calling thread.
func current() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// Here gives the namespace of this process an address of the network.
func (n *Network) Here(addr netip.Addr) error { return n.attach(addr) }

// Add makes a namespace with an address.
func (n *Network) Add(addr netip.Addr) (*Namespace, error) {
	s := &Namespace{Addr: addr, home: n.home}
	err := onThread(n.home, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if s.file, err = current(); err != nil {
			return err
		}
		return n.attach(addr)
	})
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	n.spaces = append(n.spaces, s)
	return s, nil
}

// attach makes the interface in the namespace of the calling thread.
func (n *Network) attach(addr netip.Addr) error {
	if err := setUp("lo", true); err != nil {
		return err
	}
	device, err := openTUN(addr)
	if err != nil {
		return err
	}
	return n.Attach(addr, device)
}

// Close removes the namespaces, unless processes run in them.
func (n *Network) Close() error {
	errs := []error{n.Switch.Close()}
	for _, s := range n.spaces {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(append(errs, n.home.Close())...)
}

// onThread calls do on an operating system thread that may leave the namespace home,
// and then returns to it.
func onThread(home *os.File, do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := do()
		// A thread that cannot return ends with its goroutine.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Do calls do on a thread in the namespace. Sockets that its goroutine opens, and
// processes that it starts, belong to the namespace.
func (s *Namespace) Do(do func() error) error {
	return onThread(s.home, func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return do()
	})
}

// Dial connects from the namespace to a TCP address.
func (s *Namespace) Dial(addr string, timeout time.Duration) (c net.Conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var d net.Dialer
	err = s.Do(func() error { c, err = d.DialContext(ctx, "tcp4", addr); return err })
	return c, err
}

// Link sets the interface of the namespace up or down.
func (s *Namespace) Link(up bool) error {
	return s.Do(func() error { return setUp(tun, up) })
}

// tun is the name of the interface in each namespace.
const tun = "pulse0"

// openTUN makes an interface that leads to this process
// (https://docs.kernel.org/networking/tuntap.html), with an address and a netmask of
// 24 bits.
func openTUN(addr netip.Addr) (io.ReadWriteCloser, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	r, err := unix.NewIfreq(tun)
	if err == nil {
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TUN device: %w", err), unix.Close(fd))
	}
	device := os.NewFile(uintptr(fd), tun) // not before: only now can it be polled
	steps := []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
	}
	for _, s := range steps {
		if err := control(tun, s.request, s.set); err != nil {
			return nil, errors.Join(err, device.Close())
		}
	}
	if err := setUp(tun, true); err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return device, nil
}

// control changes an interface in the namespace of the calling thread.
func control(name string, request uint, set func(*unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = set(r)
	}
	if err == nil {
		err = unix.IoctlIfreq(fd, request, r)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// setUp sets an interface in the namespace of the calling thread up or down.
func setUp(name string, up bool) error {
	var flags uint16
	if up {
		flags = unix.IFF_UP
	}
	return control(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(flags); return nil })
}
