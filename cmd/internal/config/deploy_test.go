package config_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"pulsegate/cmd/internal/config"
)

const deployDir = "../../../deploy"

// TestDeployedSettings checks that the files in deploy/ set only variables that the
// server knows, because it refuses to start with others.
func TestDeployedSettings(t *testing.T) {
	names := regexp.MustCompile(`PULSEGATE_[A-Z_]+`)
	found := 0
	err := filepath.WalkDir(deployDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, name := range names.FindAllString(string(b), -1) {
			if name == "PULSEGATE_" {
				continue
			}
			found++
			if err := config.CheckEnviron([]string{name + "=x"}); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no settings found")
	}
}

// TestComposedServers checks that the servers of the Compose file differ only in
// their names and addresses, and that every secret they name is one of the file's.
func TestComposedServers(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(deployDir, "cluster/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Environment map[string]string
			Secrets     []string
			Networks    []string
		}
		Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	servers, nodes := 0, map[string]bool{}
	for name, s := range file.Services {
		for _, secret := range s.Secrets {
			if _, ok := file.Secrets[secret]; !ok {
				t.Errorf("%s: no secret %s", name, secret)
			}
		}
		if !strings.HasPrefix(name, "pulsegate-") {
			continue
		}
		servers++
		nodes[s.Environment["PULSEGATE_NODE"]] = true
		if got := s.Environment["PULSEGATE_PEER_ADDRESS"]; got != name+":8443" {
			t.Errorf("%s: its peers would look for it at %s", name, got)
		}
		for variable, value := range s.Environment {
			secret, isFile := strings.CutPrefix(value, "/run/secrets/")
			if isFile != strings.HasSuffix(variable, "_FILE") || isFile && !slices.Contains(s.Secrets, secret) {
				t.Errorf("%s: %s names a file that the service does not have", name, variable)
			}
			if variable != "PULSEGATE_NODE" && variable != "PULSEGATE_PEER_ADDRESS" &&
				value != file.Services["pulsegate-1"].Environment[variable] {
				t.Errorf("%s: %s differs from that of pulsegate-1", name, variable)
			}
		}
	}
	if servers != 3 || len(nodes) != 3 {
		t.Errorf("%d servers with %d names, want 3", servers, len(nodes))
	}
}

// TestKubernetesFile checks that every document of the file can be read, that all are
// in one namespace, and that the server's ports are those of its settings.
func TestKubernetesFile(t *testing.T) {
	f, err := os.Open(filepath.Join(deployDir, "cluster/kubernetes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Data     map[string]string
		Spec     struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Ports []struct {
							ContainerPort int `yaml:"containerPort"`
						}
					}
				}
			}
		}
	}
	dec := yaml.NewDecoder(f)
	kinds, ports, settings := 0, []string{}, map[string]string{}
	for {
		var o object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds++
		if o.Metadata.Namespace != "pulsegate" {
			t.Errorf("%s %s is in namespace %q", o.Kind, o.Metadata.Name, o.Metadata.Namespace)
		}
		maps.Copy(settings, o.Data)
		for _, c := range o.Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				ports = append(ports, fmt.Sprintf(":%d", p.ContainerPort))
			}
		}
	}
	want := []string{settings["PULSEGATE_LISTEN"], settings["PULSEGATE_PEER_LISTEN"],
		settings["PULSEGATE_METRICS_LISTEN"]}
	if kinds != 7 || !slices.Equal(ports, want) {
		t.Errorf("%d objects, ports %v, want those of the settings %v", kinds, ports, want)
	}
}
