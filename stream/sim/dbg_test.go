package sim
import ("testing";"os";"strconv";"fmt")
func TestDbg(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	r := &Runner{Pipeline: testPipeline(t), Trace: true}
	res := r.Run(NewSchedule(r.Pipeline, seed))
	for _, l := range res.Trace { fmt.Println(l) }
	for _, v := range res.Violations { fmt.Println(v) }
}
