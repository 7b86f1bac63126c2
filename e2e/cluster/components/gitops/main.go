// Judges objects of a cluster as Argo CD and Flux judge them, by their own libraries: gitops-engine's diff in each of its
// ways, its health with our scripts in Argo's Lua, and kstatus.
//
// Reads a request as JSON from stdin and writes name -> verdict as JSON to stdout.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	objects "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2/textlogger"
	gopherjson "layeh.com/gopher-json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

const manager = "argocd-controller"

type request struct {
	Kubeconfig string            `json:"kubeconfig"`
	Plurals    map[string]string `json:"plurals"` // of kinds
	Health     map[string]string `json:"health"`  // kind -> script
	Cases      []subject         `json:"cases"`
}

type subject struct {
	Name   string                 `json:"name"`
	Config map[string]interface{} `json:"config"` // as it lies in git
	Live   map[string]interface{} `json:"live"`
}

type verdict struct {
	Differences map[string]string `json:"differences"` // way of the diff -> what it would change; absent: in sync
	Health      string            `json:"health"`
	Message     string            `json:"message"`
	Kstatus     string            `json:"kstatus"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var asked request
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := objects.Unmarshal(text, &asked); err != nil { // whole numbers stay such
		return err
	}
	ways, err := waysOf(asked)
	if err != nil {
		return err
	}
	told := map[string]verdict{}
	for _, each := range asked.Cases {
		if told[each.Name], err = judge(each, ways, scripts(asked.Health)); err != nil {
			return fmt.Errorf("%s: %w", each.Name, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

// How Argo CD compares: by the annotation of the last apply (its default), by the fields of managers (with the sync
// option ServerSideApply), and by a dry run of the API server (ServerSideDiff).
func waysOf(asked request) (map[string][]diff.Option, error) {
	config, err := clientcmd.BuildConfigFromFlags("", asked.Kubeconfig)
	if err != nil {
		return nil, err
	}
	ctl := &kube.KubectlCmd{Log: textlogger.NewLogger(textlogger.NewConfig()), Tracer: tracing.NopTracer{}}
	_, parser, err := ctl.LoadOpenAPISchema(config)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	all := []diff.Option{diff.WithNormalizer(statusless{})}
	named := append([]diff.Option{diff.WithGVKParser(parser), diff.WithManager(manager)}, all...)
	return map[string][]diff.Option{
		"default":         all,
		"structuredMerge": append([]diff.Option{diff.WithStructuredMergeDiff(true)}, named...),
		"serverSide": append([]diff.Option{
			diff.WithServerSideDiff(true), diff.WithServerSideDryRunner(dryRun{client, asked.Plurals}),
		}, named...),
	}, nil
}

// Argo CD compares no status (its setting resource.compareoptions.ignoreResourceStatusField, by default).
type statusless struct{}

func (statusless) Normalize(object *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(object.Object, "status")
	return nil
}

type dryRun struct {
	client  dynamic.Interface
	plurals map[string]string
}

func (d dryRun) Run(ctx context.Context, object *unstructured.Unstructured, manager string) (string, error) {
	kind := object.GroupVersionKind()
	where := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: d.plurals[kind.Kind]}
	options := metav1.ApplyOptions{FieldManager: manager, Force: true, DryRun: []string{metav1.DryRunAll}}
	made, err := d.client.Resource(where).Namespace(object.GetNamespace()).Apply(ctx, object.GetName(), object, options)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(made)
	return string(text), err
}

func judge(each subject, ways map[string][]diff.Option, override health.HealthOverride) (verdict, error) {
	found := verdict{Differences: map[string]string{}}
	live := &unstructured.Unstructured{Object: each.Live}
	for way, options := range ways {
		config := (&unstructured.Unstructured{Object: each.Config}).DeepCopy()
		result, err := diff.Diff(config, live.DeepCopy(), options...)
		if err != nil {
			return found, fmt.Errorf("diff %s: %w", way, err)
		}
		if result.Modified {
			found.Differences[way] = fmt.Sprintf("live %s\nwanted %s", result.NormalizedLive, result.PredictedLive)
		} else if !bytes.Equal(result.NormalizedLive, result.PredictedLive) {
			return found, fmt.Errorf("diff %s: in sync, though it tells a difference", way)
		}
	}
	judged, err := health.GetResourceHealth(live, override)
	if err != nil {
		return found, err
	}
	if judged != nil {
		found.Health, found.Message = string(judged.Status), judged.Message
	}
	computed, err := status.Compute(live)
	if err != nil {
		return found, err
	}
	found.Kstatus = string(computed.Status)
	return found, nil
}

// Kind -> script; run as Argo CD runs it, with as little of Lua's library (util/lua of argo-cd).
type scripts map[string]string

func (s scripts) GetResourceHealth(object *unstructured.Unstructured) (*health.HealthStatus, error) {
	script, known := s[object.GetKind()]
	if !known {
		return nil, nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		call := lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(object.Object)
	if err != nil {
		return nil, err
	}
	value, err := gopherjson.Decode(state, text)
	if err != nil {
		return nil, err
	}
	state.SetGlobal("obj", value)
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	text, err = gopherjson.Encode(state.Get(-1))
	if err != nil {
		return nil, err
	}
	told := &health.HealthStatus{}
	return told, json.Unmarshal(text, told)
}
