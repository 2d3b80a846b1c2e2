// Driver for the Go clients: franz and sarama, each with produce, dump, admin, group and txn.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	partitions = 3
	patience   = 60 * time.Second
)

var codecNames = []string{"none", "gzip", "snappy", "lz4", "zstd"} // in the order of their numbers

type header struct {
	name  string
	value []byte
}

type record struct {
	partition  int32
	timestamp  time.Time
	key, value []byte // nil is null
	headers    []header
}

type client interface {
	produce(ctx context.Context, records []record, topic, codec string, variant int) error
	dump(ctx context.Context, out *bufio.Writer, topic string) error
	admin(ctx context.Context, topic string) error
	group(ctx context.Context, topic, name string) error
	txn(ctx context.Context, topic string) error
}

// Usage: CLIENT produce BOOTSTRAP FILE PREFIX CODECS | dump BOOTSTRAP TOPIC... | admin BOOTSTRAP PREFIX
// | group BOOTSTRAP TOPIC GROUP | txn BOOTSTRAP TOPIC.
func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, command, boot string, args []string) error {
	clients := map[string]client{"franz": franz{boot}, "sarama": saramaClient{boot}}
	c, known := clients[name]
	if !known {
		return fmt.Errorf("unknown client %s", name)
	}
	switch command {
	case "produce":
		records, err := readRecords(args[0])
		if err != nil {
			return err
		}
		for i, codec := range strings.Split(args[2], ",") {
			if err := c.produce(ctx, records, args[1]+"-"+codec, codec, i); err != nil {
				return fmt.Errorf("produce with %s: %w", codec, err)
			}
		}
		return nil
	case "dump":
		out := bufio.NewWriter(os.Stdout)
		for _, topic := range args {
			if err := c.dump(ctx, out, topic); err != nil {
				return fmt.Errorf("dump %s: %w", topic, err)
			}
		}
		return out.Flush()
	case "admin":
		return c.admin(ctx, args[0]+"-topic")
	case "group":
		return c.group(untilLine(ctx), args[0], args[1])
	case "txn":
		return c.txn(ctx, args[0])
	}
	return fmt.Errorf("unknown command %s", command)
}

// The line format that all drivers share: tab separated, bytes are hex, null is ~, headers are name=hex;name=hex.
// Input: partition, timestamp, key, value, headers.
func readRecords(path string) ([]record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var records []record
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		f := strings.Split(line, "\t")
		partition, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, err
		}
		millis, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil, err
		}
		r := record{partition: int32(partition), timestamp: time.UnixMilli(millis), key: fromHex(f[2]), value: fromHex(f[3])}
		for _, h := range strings.Split(f[4], ";") {
			if name, value, found := strings.Cut(h, "="); found {
				r.headers = append(r.headers, header{name, fromHex(value)})
			}
		}
		records = append(records, r)
	}
	return records, nil
}

// Output: topic, partition, offset, then as the input.
func writeRecord(out *bufio.Writer, topic string, offset int64, r record) {
	headers := make([]string, len(r.headers))
	for i, h := range r.headers {
		headers[i] = h.name + "=" + toHex(h.value)
	}
	fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", topic, r.partition, offset, r.timestamp.UnixMilli(),
		toHex(r.key), toHex(r.value), strings.Join(headers, ";"))
}

// untilLine is done when a line comes in, or the input ends.
func untilLine(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		cancel()
	}()
	return ctx
}

// sayOwns tells the test which partitions a member of a group has.
func sayOwns(owned map[int32]bool) {
	line := "owns"
	for p := range owned {
		line += fmt.Sprint(" ", p)
	}
	fmt.Println(line)
}

func sayRead(partition int32, offset int64) {
	fmt.Println("read", partition, offset)
}

func fromHex(s string) []byte {
	if s == "~" {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func toHex(b []byte) string {
	if b == nil {
		return "~"
	}
	return hex.EncodeToString(b)
}

func codecNumber(name string) int {
	for i, n := range codecNames {
		if n == name {
			return i
		}
	}
	panic("unknown codec " + name)
}

// until waits for what the broker may apply a moment after it has answered.
func until(what string, read func() (bool, error)) error {
	for i := 0; i < 100; i++ {
		if ok, err := read(); err != nil || ok {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s: not so after 5 s", what)
}

func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, expected %v", what, got, want)
	}
	return nil
}
