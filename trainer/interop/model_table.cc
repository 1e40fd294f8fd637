#include "trainer/interop/model_table.h"

namespace cadre::interop {

using trainer::Real;

ModelTable model_table(const trainer::RunConfig& run, comm::World& world) {
  comm::Mesh mesh(world, {});
  device::CpuQueue queue(1);
  const trainer::ModelContext<Real> context{.queue = &queue,
                                            .kernels = &device::cpu_kernels<Real>(),
                                            .mesh = &mesh,
                                            .max_sequences = 1,
                                            .seq_len = 1};
  ModelTable table;
  const trainer::Decoder<Real> decoder(run.model, run.moe, context, table.params);
  table.state = decoder.save_state();
  return table;
}

trainer::RunConfig model_run(const trainer::ModelConfig& model, const std::optional<moe::MoeConfig>& moe,
                             int64_t seq_len, const std::string& source) {
  trainer::RunConfig run;
  run.model = model;
  run.moe = moe;
  run.data.seq_len = seq_len;
  run.source = source;
  return trainer::read_run(base::parse_run_text(trainer::resolved_yaml(run), source, {}));
}

}  // namespace cadre::interop
