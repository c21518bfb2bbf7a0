for (const range of document.querySelectorAll('.pair input'))
  range.addEventListener('input', () => range.parentElement.style.setProperty('--x', range.value + '%'));
