import torch
from torch.utils.data import DataLoader

from mixaug import AdAutoMix


def train(model, dataset, num_classes, epochs=200, batch_size=100, device="cpu"):
    model = model.to(device).train()  # images in [0, 1] in, logits out
    loader = DataLoader(dataset, batch_size, shuffle=True)
    mixer = AdAutoMix(model, num_classes, n_mix=3)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator_opt = torch.optim.SGD(mixer.generator.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    total_steps, step = epochs * len(loader), 0
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, total_steps) for o in (opt, generator_opt)]
    for _ in range(epochs):
        for images, labels in loader:
            out = mixer(images.to(device), labels.to(device))
            if mixer.is_finite(out):
                opt.zero_grad()
                generator_opt.zero_grad()
                out.classifier_loss.backward()  # moves the classifier alone
                out.generator_loss.backward()  # the generator alone; both before either steps
                opt.step()
                generator_opt.step()
                mixer.update_teacher(step, total_steps)
            step += 1
            for schedule in schedules:
                schedule.step()
    return model, mixer
