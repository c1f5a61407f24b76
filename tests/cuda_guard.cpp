// For tests: makes a torch without CUDA believe in a CUDA device, enough for FakeTensorMode with autograd. It computes
// nothing. Compiled against the installed torch and loaded before it is imported, see fake_cuda.py.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct Guard : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device d() { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return d(); }
  Device getDevice() const override { return d(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, d()); }
  Stream getNewStream(Device, int = 0) const override { return Stream(Stream::DEFAULT, d()); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, d()); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex current_device() const override { return 0; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}
